//! Which sites a run is for: `--sites a,b`.

use super::model::{Config, SiteConfig};
use super::problem::nearest;

/// Names that no site has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct UnknownSites {
    /// Each unknown name with the nearest known one.
    pub unknown: Vec<(String, Option<String>)>,
    /// All known names.
    pub known: Vec<String>,
}

impl UnknownSites {
    fn describe(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (name, near) in &self.unknown {
            lines.push(match near {
                Some(near) => format!("there is no site `{name}`; did you mean `{near}`?"),
                None => format!("there is no site `{name}`"),
            });
        }
        const SHOWN: usize = 20;
        lines.push(match self.known.len() {
            0 => "the configuration has no sites".to_owned(),
            1..=SHOWN => format!("known sites: {}", self.known.join(", ")),
            count => format!("{count} sites are known, among them {}", self.known[..SHOWN].join(", ")),
        });
        lines.join("\n")
    }
}

impl Config {
    /// The sites of these names in the order of the configuration, each once; all of them when there are no names.
    ///
    /// # Errors
    /// Names that no site has, all at once.
    pub fn sites_selected(&self, names: &[String]) -> Result<Vec<&SiteConfig>, UnknownSites> {
        let known = || self.sites.iter().map(|site| site.name.as_str());
        let unknown: Vec<(String, Option<String>)> = names
            .iter()
            .filter(|name| !known().any(|site| site == name.as_str()))
            .map(|name| (name.clone(), nearest(name, known()).map(str::to_owned)))
            .collect();
        if !unknown.is_empty() {
            let known = known().map(str::to_owned).collect();
            return Err(UnknownSites { unknown, known });
        }
        let wanted = |site: &&SiteConfig| names.is_empty() || names.iter().any(|name| name == site.name.as_str());
        Ok(self.sites.iter().filter(wanted).collect())
    }
}
