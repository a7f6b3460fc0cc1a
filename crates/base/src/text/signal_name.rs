//! Names and numbers of signals, including real-time signals: these count from `RTMIN` up or from `RTMAX` down, as in
//! bash, systemd and s6.

use nix::libc;
use nix::sys::signal::Signal;

/// Returns a name such as `SIGTERM` or `SIGRTMIN+3`; the number if the signal has no name.
pub fn signal_name(signal: i32) -> String {
    if let Ok(known) = Signal::try_from(signal) {
        return known.as_str().to_owned();
    }
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    match signal {
        _ if signal == min => "SIGRTMIN".to_owned(),
        _ if signal == max => "SIGRTMAX".to_owned(),
        _ if (min..max).contains(&signal) => format!("SIGRTMIN+{}", signal - min),
        _ => format!("signal {signal}"),
    }
}

/// Reads the number of a signal from a name, in upper or lower case, with or without `SIG`.
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.trim().to_uppercase();
    let short = name.strip_prefix("SIG").unwrap_or(&name);
    if let Ok(known) = format!("SIG{short}").parse::<Signal>() {
        return Some(known as i32);
    }
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let (base, offset) = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(""), _) => (min, 0),
        (_, Some("")) => (max, 0),
        (Some(offset), _) => (min, number(offset, '+')?),
        (_, Some(offset)) => (max, -number(offset, '-')?),
        (None, None) => return None,
    };
    let signal = base.checked_add(offset)?;
    (min..=max).contains(&signal).then_some(signal)
}

/// Decides whether a process can be sent a signal of this number: the C library reserves the numbers between the
/// standard and the real-time signals.
pub fn is_signal(number: i32) -> bool {
    Signal::try_from(number).is_ok() || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number)
}

/// Reads the digits after the sign.
fn number(text: &str, sign: char) -> Option<i32> {
    let digits = text.trim_start().strip_prefix(sign)?.trim_start();
    // The parser would accept a second `+` or `-`.
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_real_time_signals() {
        let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        for (name, expected) in [
            ("TERM", Some(15)),
            ("sigterm", Some(15)),
            ("SIGRTMIN", Some(min)),
            ("RTMIN+3", Some(min + 3)),
            ("sigrtmin+3", Some(min + 3)),
            ("RTMIN + 3", Some(min + 3)),
            ("SIGRTMAX-1", Some(max - 1)),
            ("RTMAX", Some(max)),
            ("RTMIN-1", None),
            ("RTMIN+31", None),
            ("RTMIN++1", None),
            ("RTMIN+", None),
            ("RTMIN+99999999999", None),
            ("RTMAX+1", None),
            ("RTMAX-31", None),
            ("RT", None),
            ("", None),
            ("SIGSIGTERM", None),
        ] {
            assert_eq!(signal_number(name), expected, "{name}");
        }
        for signal in (1..=64).filter(|signal| is_signal(*signal)) {
            assert_eq!(signal_number(&signal_name(signal)), Some(signal));
        }
        assert!(!is_signal(32) && !is_signal(0) && !is_signal(65) && !is_signal(-1));
    }
}
