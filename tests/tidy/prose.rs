//! How the comments of the product read, in numbers for each 1,000 words. The bounds are twice the worst of three code bases
//! that are easy to read, counted the same way.

use crate::rules::{first_lines, has_words};
use crate::source::Source;

pub struct Measure {
    pub name: &'static str,
    pub found: f64,
    pub bound: f64,
}

pub fn measure(sources: &[Source]) -> Vec<Measure> {
    let product = || {
        sources
            .iter()
            .filter(|source| source.krate.is_some() && !is_test(source))
    };
    let comments: Vec<&str> = product()
        .flat_map(|source| &source.comments)
        .map(|comment| &*comment.text)
        .collect();
    let words: Vec<String> = comments
        .iter()
        .flat_map(|text| text.split(|character: char| !character.is_alphanumeric() && character != '\''))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let per_thousand = |counted: &[&str]| {
        let found = words.iter().filter(|word| counted.contains(&word.as_str())).count();
        1000.0 * found as f64 / words.len() as f64
    };
    let openings = ["what", "whether", "so many", "those", "the same"];
    let firsts: Vec<String> = product()
        .flat_map(first_lines)
        .map(|comment| comment.text.to_lowercase())
        .collect();
    let indirect = firsts.iter().filter(|text| {
        openings
            .iter()
            .any(|opening| text.starts_with(opening) && has_words(text, opening))
    });
    let indirect = 100.0 * indirect.count() as f64 / firsts.len() as f64;
    vec![
        bounded("what", per_thousand(&["what"]), 1.8),
        bounded("it, its", per_thousand(&["it", "its"]), 17.6),
        bounded("tell, told", per_thousand(&["tell", "tells", "told", "telling"]), 0.2),
        bounded("who, whose", per_thousand(&["who", "whose", "whom"]), 0.6),
        bounded(
            "comments that begin with what, whether, so many, those, the same, in percent",
            indirect,
            2.2,
        ),
    ]
}

fn bounded(name: &'static str, found: f64, bound: f64) -> Measure {
    Measure { name, found, bound }
}

fn is_test(source: &Source) -> bool {
    source
        .path
        .file_stem()
        .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
}
