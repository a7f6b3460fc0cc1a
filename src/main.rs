//! The `orch` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // In the process that orch starts as its guard, this call never returns. No other code may run before it.
    orch::guard::init();
    orch::commands::main()
}
