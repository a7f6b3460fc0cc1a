//! State that all readers of one load share: texts, problems, and facts for the checks that need all sections.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::model::SiteDependencyKind;
use crate::syntax::problem::{Problem, Problems};
use crate::syntax::source::{SourceSpan, SourceTexts};
use orch_base::names::{ServiceName, SiteName};

/// State that all readers of one load share.
#[derive(Debug, Default)]
pub(crate) struct LoadContext {
    /// Directory of the configuration, from which relative paths start.
    pub base: PathBuf,
    pub sources: SourceTexts,
    pub problems: Problems,
    /// Every `after` with position, for the check that needs all services ([`crate::check::service_order`]).
    pub service_dependencies: RefCell<Vec<ServiceDependency>>,
    /// Every dependency of a site with position, for the check that needs all sites ([`crate::check::site_order`]).
    pub site_dependencies: RefCell<Vec<SiteDependency>>,
    /// First position at which a site wants a refresh of the proxies, for the check that a refresh is possible.
    pub refresh_required_at: RefCell<Option<SourceSpan>>,
    /// Problems with missing files of a service, valid unless an earlier oneshot may create the files.
    pub unprepared: RefCell<Vec<(ServiceName, Problem)>>,
    /// Every key that was looked up, with the full path; names that the user chooses are `*`.
    pub known_keys: RefCell<BTreeSet<String>>,
}

/// Dependency of `service`, which starts after `needs`.
#[derive(Clone, Debug)]
pub(crate) struct ServiceDependency {
    pub service: ServiceName,
    pub needs: ServiceName,
    pub span: SourceSpan,
}

/// Dependency of `site` on `needs`.
#[derive(Clone, Debug)]
pub(crate) struct SiteDependency {
    pub site: SiteName,
    pub kind: SiteDependencyKind,
    pub needs: SiteName,
    pub span: SourceSpan,
}

impl LoadContext {
    pub fn new(base: PathBuf) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    pub fn report(&self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Reports a missing file, unless `service` starts after a oneshot, which may create the file.
    pub fn report_unless_prepared(&self, service: Option<&ServiceName>, problem: Problem) {
        match service {
            Some(service) => self.unprepared.borrow_mut().push((service.clone(), problem)),
            None => self.report(problem),
        }
    }
}
