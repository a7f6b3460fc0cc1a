//! Globs over names: `*` is any text, `?` any byte.

/// Whether the text is a glob at all.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether all of the text is as the glob says. In time linear in the product of both lengths.
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut at, mut of_glob) = (0, 0);
    // The last `*`, and where in the text what it stands for ends.
    let mut star = None;
    while at < text.len() {
        match glob.get(of_glob) {
            Some(b'*') => {
                star = Some((of_glob, at));
                of_glob += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at] => (at, of_glob) = (at + 1, of_glob + 1),
            _ => match star {
                Some((place, end)) => {
                    star = Some((place, end + 1));
                    (at, of_glob) = (end + 1, place + 1);
                }
                None => return false,
            },
        }
    }
    glob[of_glob..].iter().all(|byte| *byte == b'*')
}

/// Whether a name is what is meant: as the glob says, or, where that is none, one that contains the text.
pub fn is_meant(wanted: &str, name: &str) -> bool {
    match is_glob(wanted) {
        true => matches(wanted, name),
        false => name.contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_meant_by_globs_and_by_parts() {
        for (wanted, name, expected) in [
            ("scrape", "shop.scrape", true),
            ("scrap?", "shop.scrape", false),
            ("*.scrap?", "shop.scrape", true),
            ("shop.*", "shop.scrape", true),
            ("s*p*e", "shop.scrape", true),
            ("s*p*x", "shop.scrape", false),
            ("*", "shop.scrape", true),
            ("shop.*.scrape", "shop.scrape", false),
            ("*", "", true),
            ("?", "", false),
            ("*a*a*a*c", "aaaaaaaaab", false),
            ("scrape", "shop.tasks.scrape_page", true),
            ("crawl", "shop.tasks.scrape_page", false),
            ("shop.*", "shop.tasks.scrape_page", true),
            ("scrape*", "shop.tasks.scrape_page", false),
            ("*.scrape_*", "shop.tasks.scrape_page", true),
            ("*a*b", "xaxbxab", true),
            ("*a*b", "xaxbxabx", false),
            ("ta?k", "task", true),
            ("ta?k", "tak", false),
            ("*", "", true),
            ("shop-*", "shop", false),
            ("shop-*", "shop-", true),
        ] {
            assert_eq!(is_meant(wanted, name), expected, "{wanted} {name}");
        }
    }
}
