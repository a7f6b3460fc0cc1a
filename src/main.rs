//! The `orch` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Started again as its own guard, this never returns; nothing may come before it.
    orch::guard::init();
    orch::cli::main()
}
