//! Globs over names: `*` is any text, `?` any byte.

/// Decides whether the text is a glob.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Decides whether the glob matches the whole text. Takes time proportional to the product of both lengths.
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut at, mut of_glob) = (0, 0);
    // Position of the last `*`, and the end of the text that the star matches.
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

/// Decides whether a name matches: a glob must match the whole name, any other text must be a part of the name.
pub fn matches_name(wanted: &str, name: &str) -> bool {
    match is_glob(wanted) {
        true => matches(wanted, name),
        false => name.contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names_and_other_texts_match_parts() {
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
            assert_eq!(matches_name(wanted, name), expected, "{wanted} {name}");
        }
    }
}
