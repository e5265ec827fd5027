//! Every operation of the API: its name, its method and path, and the handler that serves it.
//!
//! `docs/api.md` describes each of them; a test below compares the two. Requests to function URLs and
//! download links are not operations: `function_url_layer` serves them before the routes.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

use super::app::App;
use super::concurrency::{account, provisioned, reserved};
use super::events::event_invoke_config;
use super::function_urls::config;
use super::functions::{crud, fixed_settings, tags};
use super::hearth::{logs, probes, status};
use super::invocation::{invoke, invoke_async, invoke_stream};
use super::layers::versions as layer_versions;
use super::policies::{function, layer};
use super::qualifiers::{aliases, versions};
use super::traffic::OperationNames;

/// The routes of all operations.
pub(super) fn routes() -> Router<Arc<App>> {
    let Operations { router, all } = operations();
    for Operation { name, method, path } in all {
        tracing::trace!(%method, path, name, "the controller serves an operation");
    }
    router
}

/// Their names, for the log.
pub(super) fn names() -> OperationNames {
    let all = operations().all.into_iter();
    all.map(|Operation { name, method, path }| ((method, path), name))
        .collect()
}

/// The routes for monitors.
pub(super) fn probes() -> Router<Arc<App>> {
    Operations::default().probes().router
}

fn operations() -> Operations {
    Operations::default()
        .functions()
        .qualifiers()
        .invocations()
        .events()
        .concurrency()
        .function_urls()
        .layers()
        .policies()
        .hearth()
        .probes()
}

impl Operations {
    fn functions(self) -> Self {
        self.get("ListFunctions", "/2015-03-31/functions", crud::list)
            .post("CreateFunction", "/2015-03-31/functions", crud::create)
            .get("GetFunction", "/2015-03-31/functions/{name}", crud::get)
            .delete(
                "DeleteFunction",
                "/2015-03-31/functions/{name}",
                crud::delete,
            )
            .get(
                "GetFunctionConfiguration",
                "/2015-03-31/functions/{name}/configuration",
                crud::get_configuration,
            )
            .put(
                "UpdateFunctionConfiguration",
                "/2015-03-31/functions/{name}/configuration",
                crud::update_configuration,
            )
            .put(
                "UpdateFunctionCode",
                "/2015-03-31/functions/{name}/code",
                crud::update_code,
            )
            .get("ListTags", "/2017-03-31/tags/{arn}", tags::list)
            .post("TagResource", "/2017-03-31/tags/{arn}", tags::put)
            .delete("UntagResource", "/2017-03-31/tags/{arn}", tags::remove)
            .get(
                "GetFunctionCodeSigningConfig",
                "/2020-06-30/functions/{name}/code-signing-config",
                fixed_settings::code_signing,
            )
            .get(
                "GetRuntimeManagementConfig",
                "/2021-07-20/functions/{name}/runtime-management-config",
                fixed_settings::runtime_management,
            )
    }

    fn qualifiers(self) -> Self {
        self.get(
            "ListVersionsByFunction",
            "/2015-03-31/functions/{name}/versions",
            versions::list,
        )
        .post(
            "PublishVersion",
            "/2015-03-31/functions/{name}/versions",
            versions::publish,
        )
        .get(
            "ListAliases",
            "/2015-03-31/functions/{name}/aliases",
            aliases::list,
        )
        .post(
            "CreateAlias",
            "/2015-03-31/functions/{name}/aliases",
            aliases::create,
        )
        .get(
            "GetAlias",
            "/2015-03-31/functions/{name}/aliases/{alias}",
            aliases::get,
        )
        .put(
            "UpdateAlias",
            "/2015-03-31/functions/{name}/aliases/{alias}",
            aliases::update,
        )
        .delete(
            "DeleteAlias",
            "/2015-03-31/functions/{name}/aliases/{alias}",
            aliases::delete,
        )
    }

    fn invocations(self) -> Self {
        self.post(
            "Invoke",
            "/2015-03-31/functions/{name}/invocations",
            invoke::invoke,
        )
        .post(
            "InvokeWithResponseStream",
            "/2021-11-15/functions/{name}/response-streaming-invocations",
            invoke_stream::invoke,
        )
        .post(
            "InvokeAsync",
            "/2014-11-13/functions/{name}/invoke-async",
            invoke_async::invoke_async,
        )
    }

    fn events(self) -> Self {
        self.get(
            "GetFunctionEventInvokeConfig",
            "/2019-09-25/functions/{name}/event-invoke-config",
            event_invoke_config::read,
        )
        .put(
            "PutFunctionEventInvokeConfig",
            "/2019-09-25/functions/{name}/event-invoke-config",
            event_invoke_config::put,
        )
        .post(
            "UpdateFunctionEventInvokeConfig",
            "/2019-09-25/functions/{name}/event-invoke-config",
            event_invoke_config::update,
        )
        .delete(
            "DeleteFunctionEventInvokeConfig",
            "/2019-09-25/functions/{name}/event-invoke-config",
            event_invoke_config::remove,
        )
        .get(
            "ListFunctionEventInvokeConfigs",
            "/2019-09-25/functions/{name}/event-invoke-config/list",
            event_invoke_config::list,
        )
    }

    fn concurrency(self) -> Self {
        self.put(
            "PutFunctionConcurrency",
            "/2017-10-31/functions/{name}/concurrency",
            reserved::put,
        )
        .delete(
            "DeleteFunctionConcurrency",
            "/2017-10-31/functions/{name}/concurrency",
            reserved::delete,
        )
        .get(
            "GetFunctionConcurrency",
            "/2019-09-30/functions/{name}/concurrency",
            reserved::get,
        )
        .get(
            "GetProvisionedConcurrencyConfig",
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            provisioned::get_or_list,
        )
        .put(
            "PutProvisionedConcurrencyConfig",
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            provisioned::put,
        )
        .delete(
            "DeleteProvisionedConcurrencyConfig",
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            provisioned::delete,
        )
        .also(
            Method::GET,
            "ListProvisionedConcurrencyConfigs",
            "/2019-09-30/functions/{name}/provisioned-concurrency?List=ALL",
        )
        .get(
            "GetAccountSettings",
            "/2016-08-19/account-settings",
            account::account_settings,
        )
    }

    fn function_urls(self) -> Self {
        self.get(
            "GetFunctionUrlConfig",
            "/2021-10-31/functions/{name}/url",
            config::get,
        )
        .post(
            "CreateFunctionUrlConfig",
            "/2021-10-31/functions/{name}/url",
            config::create,
        )
        .put(
            "UpdateFunctionUrlConfig",
            "/2021-10-31/functions/{name}/url",
            config::update,
        )
        .delete(
            "DeleteFunctionUrlConfig",
            "/2021-10-31/functions/{name}/url",
            config::delete,
        )
        .get(
            "ListFunctionUrlConfigs",
            "/2021-10-31/functions/{name}/urls",
            config::list_all,
        )
    }

    fn layers(self) -> Self {
        self.get("ListLayers", "/2018-10-31/layers", layer_versions::list)
            .also(
                Method::GET,
                "GetLayerVersionByArn",
                "/2018-10-31/layers?find=LayerVersion&Arn={arn}",
            )
            .get(
                "ListLayerVersions",
                "/2018-10-31/layers/{name}/versions",
                layer_versions::list_versions,
            )
            .post(
                "PublishLayerVersion",
                "/2018-10-31/layers/{name}/versions",
                layer_versions::publish,
            )
            .get(
                "GetLayerVersion",
                "/2018-10-31/layers/{name}/versions/{version}",
                layer_versions::get_version,
            )
            .delete(
                "DeleteLayerVersion",
                "/2018-10-31/layers/{name}/versions/{version}",
                layer_versions::delete_version,
            )
    }

    fn policies(self) -> Self {
        self.get(
            "GetPolicy",
            "/2015-03-31/functions/{name}/policy",
            function::get,
        )
        .post(
            "AddPermission",
            "/2015-03-31/functions/{name}/policy",
            function::add,
        )
        .delete(
            "RemovePermission",
            "/2015-03-31/functions/{name}/policy/{sid}",
            function::remove,
        )
        .get(
            "GetLayerVersionPolicy",
            "/2018-10-31/layers/{name}/versions/{version}/policy",
            layer::get,
        )
        .post(
            "AddLayerVersionPermission",
            "/2018-10-31/layers/{name}/versions/{version}/policy",
            layer::add,
        )
        .delete(
            "RemoveLayerVersionPermission",
            "/2018-10-31/layers/{name}/versions/{version}/policy/{sid}",
            layer::remove,
        )
    }

    fn hearth(self) -> Self {
        self.get("ReadLog", "/hearth/v1/functions/{name}/logs", logs::read)
            .get(
                "FollowLog",
                "/hearth/v1/functions/{name}/logs/follow",
                logs::follow,
            )
            .delete(
                "StopDeploy",
                "/hearth/v1/functions/{name}/deploy",
                status::stop_deploy,
            )
            .get("ListInstances", "/hearth/v1/instances", status::instances)
            .get("GetStatus", "/hearth/v1/status", status::status)
            .post(
                "PingInstance",
                "/hearth/v1/bench/agent-ping",
                status::agent_ping,
            )
    }

    fn probes(self) -> Self {
        self.get("GetHealth", "/healthz", probes::healthz)
            .get("GetReadiness", "/readyz", probes::readyz)
            .get("GetMetrics", "/metrics", probes::metrics)
    }
}

/// What a caller can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Operation {
    /// As Lambda calls it.
    name: &'static str,
    method: Method,
    path: &'static str,
}

/// The operations, and the routes that serve them.
#[derive(Debug, Default)]
struct Operations {
    router: Router<Arc<App>>,
    all: Vec<Operation>,
}

impl Operations {
    fn get<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.add(Method::GET, name, path, routing::get(handler))
    }

    fn post<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.add(Method::POST, name, path, routing::post(handler))
    }

    fn put<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.add(Method::PUT, name, path, routing::put(handler))
    }

    fn delete<H: Handler<T, Arc<App>>, T: 'static>(
        self,
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.add(Method::DELETE, name, path, routing::delete(handler))
    }

    fn add(
        mut self,
        method: Method,
        name: &'static str,
        path: &'static str,
        handler: MethodRouter<Arc<App>>,
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.also(method, name, path)
    }

    /// An operation that the route of another one serves: the query says which.
    fn also(mut self, method: Method, name: &'static str, path: &'static str) -> Self {
        self.all.push(Operation { name, method, path });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::action::Action;
    use super::*;

    /// What the tables of `docs/api.md` say: rows that begin with a method and a path.
    fn documented() -> Vec<(String, String, String)> {
        let text = include_str!("../../../docs/api.md");
        let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
        text.lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                let (method, path) = cells.next()?.strip_prefix('`')?.split_once(' ')?;
                Some((method.to_owned(), code(path), code(cells.next()?)))
            })
            .collect()
    }

    #[test]
    fn the_document_describes_every_operation_and_no_other() {
        let mut documented = documented();
        let mut served: Vec<(String, String, String)> = operations()
            .all
            .into_iter()
            .map(|operation| {
                let Operation { name, method, path } = operation;
                (method.to_string(), path.to_owned(), name.to_owned())
            })
            .collect();
        documented.sort();
        served.sort();
        let missing: Vec<_> = served
            .iter()
            .filter(|row| !documented.contains(row))
            .collect();
        let strange: Vec<_> = documented
            .iter()
            .filter(|row| !served.contains(row))
            .collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "docs/api.md has no row for {missing:#?}, and rows for unknown operations: {strange:#?}"
        );
        assert_eq!(
            documented.len(),
            served.len(),
            "docs/api.md has a row twice"
        );
    }

    #[test]
    fn permissions_know_every_operation_by_its_name() {
        for Operation { name, method, path } in operations().all {
            // The path alone does not distinguish a list from one of its items.
            if path.contains('?') {
                continue;
            }
            let action = Action::of(&method, path).name();
            let expected = match name {
                "GetHealth" | "GetReadiness" => "hearth:Probe".to_owned(),
                _ if path.starts_with("/hearth/") || path == "/metrics" => {
                    "hearth:Administer".to_owned()
                }
                // A caller that may run a function may use every operation that runs it.
                "Invoke" | "InvokeAsync" | "InvokeWithResponseStream" => {
                    "lambda:InvokeFunction".to_owned()
                }
                // Changing one in part takes the same permission as replacing it.
                "UpdateFunctionEventInvokeConfig" => {
                    "lambda:PutFunctionEventInvokeConfig".to_owned()
                }
                _ => format!("lambda:{name}"),
            };
            assert_eq!(action, expected, "{method} {path}");
        }
    }
}
