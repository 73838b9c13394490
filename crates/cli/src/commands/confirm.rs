//! Asking before something that cannot be taken back

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use crate::failure::Failure;
use crate::printable;

/// Asks on a terminal; elsewhere nobody could answer, and `refusal` says what would happen
pub(super) fn confirm(question: &str, refusal: &str) -> Result<(), Failure> {
    let unasked = || Failure::Usage {
        message: format!("{refusal}; say --yes if that is meant"),
    };
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(unasked());
    }
    let mut terminal = std::io::stderr();
    write!(terminal, "{} [y/N] ", printable::line(question))?;
    terminal.flush()?;
    let mut answer = String::new();
    input.lock().take(64).read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(unasked()),
    }
}
