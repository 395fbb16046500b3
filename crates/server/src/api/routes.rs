//! The router table: every route of the API is declared through [`Routes`], which remembers what it is told, so that a
//! test can walk all of them. The words are axum's own: `Routes::new().route("/apps", get(list).post(create))`.

use crate::node::Node;
use axum::Router;
use axum::handler::Handler;
use axum::routing::MethodRouter;
use http::Method;
use std::sync::Arc;

/// Routes and their handlers.
#[derive(Default)]
pub struct Routes {
    router: Router<Arc<Node>>,
    table: Vec<(Method, &'static str)>,
}

/// The methods of one path and their handlers.
pub struct Methods {
    router: MethodRouter<Arc<Node>>,
    methods: Vec<Method>,
}

impl Routes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one path more.
    ///
    /// # Panics
    /// The path has one of the methods already.
    #[must_use]
    pub fn route(mut self, path: &'static str, methods: Methods) -> Self {
        self.router = self.router.route(path, methods.router);
        self.table.extend(methods.methods.into_iter().map(|method| (method, path)));
        self
    }

    /// These and all of another noun's.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.table.extend(other.table);
        self
    }

    /// What has been declared, in that order.
    pub fn table(&self) -> &[(Method, &'static str)] {
        &self.table
    }

    /// For axum.
    pub fn into_router(self) -> Router<Arc<Node>> {
        self.router
    }
}

macro_rules! methods {
    ($($name:ident $method:ident),*) => {
        $(
            /// A path's handler for this method.
            pub fn $name<H: Handler<T, Arc<Node>>, T: 'static>(handler: H) -> Methods {
                Methods { router: axum::routing::$name(handler), methods: vec![Method::$method] }
            }
        )*

        impl Methods {
            $(
                /// And one for this method.
                #[must_use]
                pub fn $name<H: Handler<T, Arc<Node>>, T: 'static>(mut self, handler: H) -> Self {
                    self.router = self.router.$name(handler);
                    self.methods.push(Method::$method);
                    self
                }
            )*
        }
    };
}

methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);
