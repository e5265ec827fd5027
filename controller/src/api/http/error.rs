//! Turns errors into responses, in the form that Lambda's clients expect. No other module does.
//!
//! The header `x-amzn-ErrorType` names the type. In the body the message is called `Message` or
//! `message`, depending on the type, as AWS does it.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::auth::AuthError;
use crate::deploy::ControlError;
use crate::function::{MAX_POLICY, PolicyError, State};
use crate::pool::{NotRun, PingError};
use crate::registry::RegistryError;
use crate::web_pages::Refused;

const ACCESS_DENIED: &str = "AccessDeniedException";
const SERIALIZATION: &str = "SerializationException";

/// An error response.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// For 429: the limit that was reached.
    reason: Option<&'static str>,
    /// Whether the body has the member `Type` (`User` or `Service`). A few of Lambda's errors have not.
    has_type: bool,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            reason: None,
            has_type: true,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidParameterValueException",
            message,
        )
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ValidationException", message)
    }

    /// The resource belongs to another account. Lambda's message is `null`.
    pub(crate) fn other_account() -> Self {
        Self::new(StatusCode::FORBIDDEN, ACCESS_DENIED, "")
    }

    pub(crate) fn bad_content(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidRequestContentException",
            message,
        )
    }

    /// A body that does not fit the operation's model.
    pub(crate) fn serialization(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, SERIALIZATION, message)
    }

    /// `arn` is that of the function, or of the requested version.
    pub(crate) fn function_not_found(arn: &str) -> Self {
        Self::not_found(format!("Function not found: {arn}"))
    }

    pub(crate) fn alias_not_found(arn: &str) -> Self {
        Self::not_found(format!("Cannot find alias arn: {arn}"))
    }

    pub(crate) fn no_provisioned() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ProvisionedConcurrencyConfigNotFoundException",
            "No Provisioned Concurrency Config found for this function",
        )
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    /// The signature of a package's download link does not match, or has expired.
    pub(crate) fn expired_link() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ACCESS_DENIED,
            "Request has expired: get a new Location from GetFunction or GetLayerVersion",
        )
    }

    /// No route has this path. Lambda's operations that Hearth does not have are named.
    pub(crate) fn unknown_path(path: &str) -> Self {
        const MISSING: [(&str, &str); 7] = [
            ("/event-source-mappings", "event source mappings"),
            ("/code-signing-configs", "code signing configurations"),
            ("/recursion-config", "recursion configurations"),
            ("/function-scaling-config", "scaling configurations"),
            ("/capacity-providers", "capacity providers"),
            ("/durable-execution", "durable executions"),
            (
                "/runtime-management-config",
                "runtime management configurations",
            ),
        ];
        let missing = MISSING.iter().find(|(part, _)| path.contains(part));
        let message = match missing {
            Some((_, what)) => format!("There is nothing at this path: Hearth has no {what}"),
            None => "There is nothing at this path".to_owned(),
        };
        Self::new(StatusCode::NOT_FOUND, "UnknownOperationException", message)
    }

    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UnknownOperationException",
            "This path does not take this method",
        )
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "ResourceConflictException", message)
    }

    pub(crate) fn too_large(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, kind, message)
    }

    pub(crate) fn slow_body() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeoutException",
            "The body did not arrive in time",
        )
    }

    pub(crate) fn service(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "ServiceException",
            message,
        )
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceException", message)
    }

    /// A request of a foreign web page, or without a valid `Host`.
    pub(crate) fn page_check(refused: &Refused) -> Self {
        match refused {
            Refused::Malformed(_) => Self::validation(refused.to_string()),
            Refused::Host(_) | Refused::Page => {
                Self::new(StatusCode::FORBIDDEN, ACCESS_DENIED, refused.to_string())
            }
        }
    }

    /// A browser asks for the script of a service worker.
    pub(crate) fn service_worker() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ACCESS_DENIED,
            "A service worker needs a function URL with a host name of its own",
        )
    }

    /// Authentication or authorization failed.
    pub(crate) fn access(error: &AuthError) -> Self {
        let status = match error {
            AuthError::Keys => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::FORBIDDEN,
        };
        Self::new(status, error.kind(), error.to_string())
    }

    /// The client may not use a function's URL.
    pub(crate) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ACCESS_DENIED,
            "Forbidden. For troubleshooting Function URL authorization issues, see: \
             https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html",
        )
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
    }

    /// The function or version is not active.
    pub(crate) fn state(state: State) -> Self {
        Self::conflict(format!(
            "The operation cannot be performed at this time. The function is currently in the \
             following state: {}",
            state.name()
        ))
    }

    /// A change of a function failed. `arn` is the function's.
    pub(crate) fn control(error: ControlError, arn: &str) -> Self {
        match error {
            ControlError::NotFound => Self::function_not_found(arn),
            ControlError::Exists => {
                let name = arn.rsplit(':').next().unwrap_or(arn);
                Self::conflict(format!("Function already exist: {name}"))
            }
            ControlError::Busy => Self::conflict(format!(
                "The operation cannot be performed at this time. An update is in progress for \
                 resource: {arn}"
            )),
            ControlError::Revision => Self::revision("GetFunction/GetAlias"),
            ControlError::State(state) => Self::state(state),
            ControlError::AliasExists(alias) => {
                Self::conflict(format!("Alias already exists: {arn}:{alias}"))
            }
            ControlError::NoAlias(alias) => Self::alias_not_found(&format!("{arn}:{alias}")),
            ControlError::NoVersion(version) => {
                Self::function_not_found(&format!("{arn}:{version}"))
            }
            ControlError::Referenced(aliases) => Self::conflict(format!(
                "Version {arn} cannot be deleted while aliases point to it: {}",
                aliases.join(", ")
            )),
            ControlError::Invalid(message) => Self::invalid(message),
            ControlError::Untyped(message) => Self {
                has_type: false,
                ..Self::invalid(message)
            },
            ControlError::Conflict(message) => Self::conflict(message),
            ControlError::Policy(error) => Self::policy(error),
            ControlError::Registry(error @ RegistryError::Damaged { .. }) => {
                Self::conflict(error.to_string())
            }
            ControlError::LowSpace(low) => Self::new(
                StatusCode::BAD_REQUEST,
                "CodeStorageExceededException",
                low.to_string(),
            ),
            ControlError::Registry(error) => {
                tracing::error!(arn, %error, "a change of a function failed");
                Self::service(error.for_clients())
            }
            ControlError::Host(error) => {
                tracing::error!(arn, %error, "a change of a function failed");
                Self::service(error.for_clients())
            }
        }
    }

    /// A change of a layer failed. `arn` is its version's.
    pub(crate) fn layer_control(error: ControlError, arn: &str) -> Self {
        match error {
            ControlError::NotFound => Self::layer_version_not_found(arn),
            ControlError::Revision => Self::revision("GetLayerPolicy"),
            other => Self::control(other, arn),
        }
    }

    pub(crate) fn layer_version_not_found(arn: &str) -> Self {
        Self::not_found(format!("Layer version {arn} does not exist."))
    }

    /// The client's revision is not the current one, which the operation `api` returns.
    fn revision(api: &str) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailedException",
            format!(
                "The Revision Id provided does not match the latest Revision Id. Call the {api} \
                 API to retrieve the latest Revision Id"
            ),
        )
    }

    fn policy(error: PolicyError) -> Self {
        match error {
            PolicyError::StatementExists(sid) => Self::conflict(format!(
                "The statement id ({sid}) provided already exists. Please provide a new statement \
                 id, or remove the existing statement."
            )),
            PolicyError::NoPolicy => Self::no_policy(),
            PolicyError::NoStatement(sid) => {
                Self::not_found(format!("Statement {sid} is not found in resource policy."))
            }
            PolicyError::TooLong(size) => Self::new(
                StatusCode::BAD_REQUEST,
                "PolicyLengthExceededException",
                format!("The final policy size ({size}) is bigger than the limit ({MAX_POLICY})."),
            ),
        }
    }

    pub(crate) fn no_policy() -> Self {
        Self::not_found("No policy is associated with the given resource.")
    }

    /// The event queue is full: clients may try again.
    pub(crate) fn queue_full(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::throttled("CallerRateLimitExceeded")
        }
    }

    fn throttled(reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequestsException",
                "Rate Exceeded.",
            )
        }
    }

    /// An invocation did not run: clients may try again.
    pub(crate) fn not_run(error: &NotRun) -> Self {
        match error {
            NotRun::Throttled => Self::throttled("ConcurrentInvocationLimitExceeded"),
            NotRun::ReservedConcurrency => {
                Self::throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
            }
            NotRun::RestoreHook(kind) => Self::new(
                StatusCode::BAD_REQUEST,
                "SnapStartException",
                format!(
                    "The afterRestore() runtime hook encountered an error ({kind}). For more \
                     information, check the function's logs."
                ),
            ),
            NotRun::RestoreTimeout(_) => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "SnapStartTimeoutException",
                "The snapshot couldn't be restored within the timeout limit.",
            ),
            NotRun::Unavailable(_) => Self::service(error.to_string()),
            NotRun::Ending => Self::unavailable(error.to_string()),
        }
    }

    pub(crate) fn ping(error: &PingError) -> Self {
        match error {
            PingError::NoIdleInstance => Self::conflict(error.to_string()),
            PingError::Failed(_) => Self::service(error.to_string()),
        }
    }
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let owner = if self.status.is_server_error() {
            "Service"
        } else {
            "User"
        };
        let body = match (self.kind, self.reason) {
            (_, Some(reason)) => {
                json!({ "Type": owner, "Reason": reason, "message": self.message })
            }
            // The types whose model has a capital M.
            (
                "ResourceNotFoundException"
                | "ServiceException"
                | "SnapStartException"
                | "SnapStartTimeoutException",
                None,
            ) => {
                json!({ "Type": owner, "Message": self.message })
            }
            // Errors that AWS's gateway sends before Lambda sees the request.
            (ACCESS_DENIED, None) if self.message.is_empty() => {
                json!({ "Message": null })
            }
            (ACCESS_DENIED | SERIALIZATION, None) => json!({ "Message": self.message }),
            _ if !self.has_type => json!({ "message": self.message }),
            _ if self.status == StatusCode::FORBIDDEN => json!({ "message": self.message }),
            _ => json!({ "Type": owner, "message": self.message }),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert("x-amzn-errortype", HeaderValue::from_static(self.kind));
        if self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::SERVICE_UNAVAILABLE
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    use super::*;

    async fn parts(error: ApiError) -> (u16, String, serde_json::Value) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let kind = response.headers()["x-amzn-errortype"]
            .to_str()
            .unwrap()
            .to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn the_case_of_the_message_key_is_each_types_own() {
        let (status, kind, body) = parts(ApiError::function_not_found("arn")).await;
        assert_eq!((status, kind.as_str()), (404, "ResourceNotFoundException"));
        assert_eq!(body["Message"], "Function not found: arn");
        let (status, _, body) = parts(ApiError::conflict("c")).await;
        assert_eq!((status, &body["message"]), (409, &json!("c")));
    }

    #[tokio::test]
    async fn a_resource_of_another_account_is_refused_without_a_message() {
        let (status, kind, body) = parts(ApiError::other_account()).await;
        assert_eq!((status, kind.as_str()), (403, "AccessDeniedException"));
        assert_eq!(body, json!({ "Message": null }));
    }

    #[tokio::test]
    async fn a_body_that_can_not_be_read_is_refused_as_awss_gateway_does_it() {
        let (status, kind, body) = parts(ApiError::serialization("why")).await;
        assert_eq!((status, kind.as_str()), (400, "SerializationException"));
        assert_eq!(body, json!({ "Message": "why" }));
    }

    #[tokio::test]
    async fn a_few_errors_have_no_type_in_their_body() {
        let refused = |error| parts(ApiError::control(error, "arn"));
        let (_, _, body) = refused(ControlError::Untyped("why".into())).await;
        assert_eq!(body, json!({ "message": "why" }));
        let (_, _, body) = refused(ControlError::Invalid("why".into())).await;
        assert_eq!(body, json!({ "Type": "User", "message": "why" }));
    }

    #[tokio::test]
    async fn an_operation_that_hearth_does_not_have_is_named() {
        let path = "/2015-03-31/event-source-mappings/";
        let (status, _, body) = parts(ApiError::unknown_path(path)).await;
        assert_eq!(status, 404);
        let message = body["message"].as_str().unwrap();
        assert!(
            message.ends_with("Hearth has no event source mappings"),
            "{message}"
        );
        let (_, _, body) = parts(ApiError::unknown_path("/elsewhere")).await;
        assert_eq!(body["message"], "There is nothing at this path");
    }

    #[tokio::test]
    async fn a_throttle_says_which_limit_and_when_to_try_again() {
        let error = ApiError::not_run(&NotRun::Throttled);
        let response = error.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["Reason"], "ConcurrentInvocationLimitExceeded");
        assert_eq!(body["message"], "Rate Exceeded.");
    }
}
