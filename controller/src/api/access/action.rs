//! The IAM action of a route, for permissions and for the message of a refusal.

use axum::http::Method;

/// The action of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Liveness and readiness, which need no permission.
    Probe,
    /// Invoke a function, with any of the three operations.
    Invoke,
    /// Any other action, by its name.
    Administer(&'static str),
}

impl Action {
    /// The action of a method and of the route that matched, with its parameters in braces.
    pub(crate) fn of(method: &Method, route: &str) -> Self {
        if matches!(route, "/healthz" | "/readyz") {
            return Self::Probe;
        }
        // Lambda's routes begin with a date, which does not matter here.
        let operation = route
            .trim_start_matches('/')
            .split_once('/')
            .map_or("", |(_, operation)| operation.trim_end_matches('/'));
        let shape: Vec<&str> = operation
            .split('/')
            .map(|part| if part.starts_with('{') { "{}" } else { part })
            .collect();
        let invokes = matches!(
            shape.as_slice(),
            [
                "functions",
                "{}",
                "invocations" | "response-streaming-invocations" | "invoke-async"
            ]
        );
        if route.starts_with("/hearth/") || route == "/metrics" {
            return Self::Administer("hearth:Administer");
        }
        if invokes && *method == Method::POST {
            return Self::Invoke;
        }
        Self::Administer(lambda_name(method, &shape))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Probe => "hearth:Probe",
            Self::Invoke => "lambda:InvokeFunction",
            Self::Administer(name) => name,
        }
    }
}

fn lambda_name(method: &Method, shape: &[&str]) -> &'static str {
    match (method.as_str(), shape) {
        ("POST", ["functions"]) => "lambda:CreateFunction",
        ("GET", ["functions"]) => "lambda:ListFunctions",
        ("GET", ["functions", "{}"]) => "lambda:GetFunction",
        ("DELETE", ["functions", "{}"]) => "lambda:DeleteFunction",
        ("GET", ["functions", "{}", "configuration"]) => "lambda:GetFunctionConfiguration",
        ("PUT", ["functions", "{}", "configuration"]) => "lambda:UpdateFunctionConfiguration",
        ("PUT", ["functions", "{}", "code"]) => "lambda:UpdateFunctionCode",
        ("POST", ["functions", "{}", "versions"]) => "lambda:PublishVersion",
        ("GET", ["functions", "{}", "versions"]) => "lambda:ListVersionsByFunction",
        ("POST", ["functions", "{}", "aliases"]) => "lambda:CreateAlias",
        ("GET", ["functions", "{}", "aliases"]) => "lambda:ListAliases",
        ("GET", ["functions", "{}", "aliases", "{}"]) => "lambda:GetAlias",
        ("PUT", ["functions", "{}", "aliases", "{}"]) => "lambda:UpdateAlias",
        ("DELETE", ["functions", "{}", "aliases", "{}"]) => "lambda:DeleteAlias",
        ("PUT", ["functions", "{}", "concurrency"]) => "lambda:PutFunctionConcurrency",
        ("GET", ["functions", "{}", "concurrency"]) => "lambda:GetFunctionConcurrency",
        ("DELETE", ["functions", "{}", "concurrency"]) => "lambda:DeleteFunctionConcurrency",
        ("POST", ["functions", "{}", "url"]) => "lambda:CreateFunctionUrlConfig",
        ("GET", ["functions", "{}", "url"]) => "lambda:GetFunctionUrlConfig",
        ("PUT", ["functions", "{}", "url"]) => "lambda:UpdateFunctionUrlConfig",
        ("DELETE", ["functions", "{}", "url"]) => "lambda:DeleteFunctionUrlConfig",
        ("GET", ["functions", "{}", "urls"]) => "lambda:ListFunctionUrlConfigs",
        ("PUT" | "POST", ["functions", "{}", "event-invoke-config"]) => {
            "lambda:PutFunctionEventInvokeConfig"
        }
        ("GET", ["functions", "{}", "event-invoke-config"]) => {
            "lambda:GetFunctionEventInvokeConfig"
        }
        ("GET", ["functions", "{}", "event-invoke-config", "list"]) => {
            "lambda:ListFunctionEventInvokeConfigs"
        }
        ("DELETE", ["functions", "{}", "event-invoke-config"]) => {
            "lambda:DeleteFunctionEventInvokeConfig"
        }
        ("PUT", ["functions", "{}", "provisioned-concurrency"]) => {
            "lambda:PutProvisionedConcurrencyConfig"
        }
        ("GET", ["functions", "{}", "provisioned-concurrency"]) => {
            "lambda:GetProvisionedConcurrencyConfig"
        }
        ("DELETE", ["functions", "{}", "provisioned-concurrency"]) => {
            "lambda:DeleteProvisionedConcurrencyConfig"
        }
        ("GET", ["functions", "{}", "code-signing-config"]) => {
            "lambda:GetFunctionCodeSigningConfig"
        }
        ("GET", ["functions", "{}", "runtime-management-config"]) => {
            "lambda:GetRuntimeManagementConfig"
        }
        ("GET", ["layers"]) => "lambda:ListLayers",
        ("POST", ["layers", "{}", "versions"]) => "lambda:PublishLayerVersion",
        ("GET", ["layers", "{}", "versions"]) => "lambda:ListLayerVersions",
        ("GET", ["layers", "{}", "versions", "{}"]) => "lambda:GetLayerVersion",
        ("DELETE", ["layers", "{}", "versions", "{}"]) => "lambda:DeleteLayerVersion",
        ("POST", ["layers", "{}", "versions", "{}", "policy"]) => {
            "lambda:AddLayerVersionPermission"
        }
        ("GET", ["layers", "{}", "versions", "{}", "policy"]) => "lambda:GetLayerVersionPolicy",
        ("DELETE", ["layers", "{}", "versions", "{}", "policy", "{}"]) => {
            "lambda:RemoveLayerVersionPermission"
        }
        ("POST", ["functions", "{}", "policy"]) => "lambda:AddPermission",
        ("GET", ["functions", "{}", "policy"]) => "lambda:GetPolicy",
        ("DELETE", ["functions", "{}", "policy", "{}"]) => "lambda:RemovePermission",
        ("GET", ["tags", "{}"]) => "lambda:ListTags",
        ("POST", ["tags", "{}"]) => "lambda:TagResource",
        ("DELETE", ["tags", "{}"]) => "lambda:UntagResource",
        ("GET", ["account-settings"]) => "lambda:GetAccountSettings",
        // A route without an action of its own needs the permission to administer too.
        _ => "lambda:*",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_invocations_invoke_and_only_probes_probe() {
        let functions = "/2015-03-31/functions";
        for (method, route, action) in [
            (Method::GET, "/healthz", Action::Probe),
            (Method::GET, "/readyz", Action::Probe),
            (
                Method::GET,
                "/metrics",
                Action::Administer("hearth:Administer"),
            ),
            (
                Method::GET,
                "/hearth/v1/functions/{name}/logs",
                Action::Administer("hearth:Administer"),
            ),
            (
                Method::POST,
                "/hearth/v1/functions/{name}/invocations",
                Action::Administer("hearth:Administer"),
            ),
            (
                Method::POST,
                &format!("{functions}/{{name}}/invocations"),
                Action::Invoke,
            ),
            (
                Method::POST,
                "/2021-11-15/functions/{name}/response-streaming-invocations",
                Action::Invoke,
            ),
            (
                Method::DELETE,
                &format!("{functions}/{{name}}/invocations"),
                Action::Administer("lambda:*"),
            ),
            (
                Method::GET,
                functions,
                Action::Administer("lambda:ListFunctions"),
            ),
            (
                Method::GET,
                &format!("{functions}/"),
                Action::Administer("lambda:ListFunctions"),
            ),
            (
                Method::DELETE,
                &format!("{functions}/{{n}}/aliases/{{a}}"),
                Action::Administer("lambda:DeleteAlias"),
            ),
            (Method::GET, "/", Action::Administer("lambda:*")),
        ] {
            assert_eq!(Action::of(&method, route), action, "{method} {route}");
        }
    }
}
