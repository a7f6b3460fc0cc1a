//! Reading of text files: the configuration, the env_file and the sites file.

use std::path::Path;

use orch_base::files::regular;

/// Reads a text file up to a size limit; the error is a fragment such as "does not exist".
pub(crate) fn read_text(path: &Path, largest: u64) -> Result<String, String> {
    let bytes = regular::read(path, largest).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => error.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("not UTF-8 text (line {line})")
    })
}
