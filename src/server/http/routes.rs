//! The routes of a door together with their paths, so that what is served can be compared with what is documented.

use axum::Router;
use axum::routing::MethodRouter;

use super::Site;

/// Routes under construction; axum's own router cannot be asked which paths it has.
pub(super) struct Routes {
    router: Router<Site>,
    paths: Vec<&'static str>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self { router: Router::new(), paths: Vec::new() }
    }

    /// Answers `path` by `methods`. A test fails until the path and its methods stand in `openapi/` too.
    pub(super) fn route(mut self, path: &'static str, methods: MethodRouter<Site>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), ..self }
    }

    /// Both.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// The same paths with something around their answers.
    pub(super) fn through(self, around: impl FnOnce(Router<Site>) -> Router<Site>) -> Self {
        Self { router: around(self.router), ..self }
    }

    pub(super) fn into_router(self) -> Router<Site> {
        self.router
    }

    #[cfg(test)]
    pub(super) fn paths(&self) -> &[&'static str] {
        &self.paths
    }
}
