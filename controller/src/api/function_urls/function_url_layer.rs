//! Serves requests to function URLs: finds the function by path or host, authenticates the client if the
//! URL's `AuthType` says so, invokes the function and responds.
//!
//! This layer runs before the routes and their authentication, because a URL with `AuthType: NONE`
//! is public. It also serves download links of packages, which carry their own signature.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use bytes::Bytes;
use hearth_protocol::guest::MAX_PAYLOAD;
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;

use super::refused_result::RefusedResult;
use super::response::{bad_gateway, has_prelude};
use super::url_stream;
use crate::api::access::authenticate::{Authenticator, Caller, UncheckedBodies};
use crate::api::app::App;
use crate::api::http::body;
use crate::api::http::error::ApiError;
use crate::api::http::peer::Peer;
use crate::api::http::request_id::{self, RequestId};
use crate::api::http::trace::{self, trace_id};
use crate::api::invocation::request::too_large;
use crate::api::packages::download;
use crate::api::target::names::{NameForm, Named};
use crate::function::{AuthType, FunctionUrl, InvokeMode};
use crate::function_url::{
    self, Address, Incoming, SplitError, add_cors_headers, address_of, allows_origin,
    is_for_service_worker, is_preflight, isolate, preflight, with_prelude,
};
use crate::pool::{Invocation, NotRun};
use crate::web_pages::{Refused, is_of_foreign_page};

/// The layer's state.
#[derive(Debug, Clone)]
pub(crate) struct FunctionUrlLayer {
    pub(crate) app: Arc<App>,
    /// `None` if authentication is off.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) unchecked: UncheckedBodies,
}

/// Serves requests to function URLs and download links; passes all others on.
pub(crate) async fn serve(
    State(layer): State<FunctionUrlLayer>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let Some(address) = address_of(host, request.uri().path()) else {
        if download::is_link(request.uri().path()) {
            let (parts, _) = request.into_parts();
            return download::serve(
                &layer.app.downloads,
                &layer.app.builder,
                &parts.method,
                &parts.uri,
            )
            .await;
        }
        return next.run(request).await;
    };
    let by_path = matches!(address, Address::Path { .. });
    if by_path && is_for_service_worker(request.headers()) {
        return ApiError::service_worker().into_response();
    }
    let found = layer.find(&address, request.uri().path());
    let mut response = match found {
        Some((named, url, path)) => layer.respond(&named, &url, &path, request).await,
        None => ApiError::other_account().into_response(),
    };
    if by_path {
        isolate(response.headers_mut());
    }
    response
}

impl FunctionUrlLayer {
    async fn respond(
        &self,
        named: &Named,
        url: &FunctionUrl,
        path: &str,
        request: Request,
    ) -> Response<Body> {
        let request_headers = request.headers().clone();
        if let Some(cors) = &url.cors
            && is_preflight(request.method(), &request_headers)
        {
            return preflight(cors, &request_headers);
        }
        let mut response = match self.run(named, url, path, request).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        if let Some(cors) = &url.cors {
            add_cors_headers(cors, &request_headers, response.headers_mut());
        }
        response
    }

    /// The function, its URL, and the function's part of the path.
    fn find(&self, address: &Address<'_>, whole: &str) -> Option<(Named, FunctionUrl, String)> {
        let (named, path) = match address {
            Address::Path { named, path } => {
                let text = percent_decode_str(named).decode_utf8().ok()?;
                let named = Named::parse(&text, None, NameForm::Function, &self.app.arn_scope);
                (named.ok()?, *path)
            }
            Address::Host { id } => {
                let (name, alias) = self.app.catalog.by_url(id)?;
                let qualifier = (!alias.is_empty()).then_some(alias);
                (Named { name, qualifier }, whole)
            }
        };
        let function = self.app.catalog.get(&named.name)?;
        let alias = named.qualifier.as_deref().unwrap_or_default();
        let url = function.record.urls.get(alias)?.clone();
        Some((named, url, path.to_owned()))
    }

    async fn run(
        &self,
        named: &Named,
        url: &FunctionUrl,
        path: &str,
        request: Request,
    ) -> Result<Response<Body>, ApiError> {
        let accepted = Instant::now();
        request_id::runs_operation("InvokeFunctionUrl");
        let mut share = None;
        let request = match (&self.authenticator, url.auth) {
            (Some(authenticator), AuthType::Iam) => {
                let signed = authenticator.admit(request).await.map_err(forbidden)?;
                let caller = signed.extensions().get::<Caller>();
                if !caller.is_some_and(|caller| caller.may_invoke(named.name.as_str())) {
                    return Err(ApiError::forbidden());
                }
                signed
            }
            (None, AuthType::Iam) if is_unwanted(url, request.headers()) => {
                return Err(ApiError::page_check(&Refused::Page));
            }
            _ => {
                share = self.unchecked.share(request.headers(), MAX_PAYLOAD).await?;
                request
            }
        };
        let (parts, sent) = request.into_parts();
        let body = body::read(&parts.headers, sent, MAX_PAYLOAD, too_large).await?;
        let RequestId(request_id) = parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| ApiError::service("The request has no id"))?;
        let trace_id = trace_id(&parts.headers, &request_id);
        let account = &self.app.arn_scope.account;
        let caller = parts.extensions.get::<Caller>();
        let event = function_url::event(&Incoming {
            method: &parts.method,
            version: parts.version,
            path,
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            body: &body,
            peer: parts.extensions.get::<Peer>().map(|Peer(peer)| *peer),
            id: &url.id,
            request_id: &request_id,
            trace_root: trace::root(&trace_id),
            caller: caller.map(|caller| caller.described(account)),
            now: OffsetDateTime::now_utc(),
        });
        drop((body, share));
        let event = Bytes::from(event.to_string());
        if event.len() > MAX_PAYLOAD {
            return Err(too_large());
        }
        let version = self.app.find_active(named)?;
        let invocation = Invocation {
            trace_id: Some(trace_id),
            accepted,
            ..Invocation::new(request_id, version, named.arn(&self.app.arn_scope), event)
        };
        if url.mode == InvokeMode::ResponseStream {
            return url_stream::run(&self.app.pool, &self.app.logs, invocation).await;
        }
        let refused = RefusedResult::of(&invocation, &self.app.logs);
        let completed = self.app.pool.submit(invocation).await;
        let completed = match completed {
            Ok(completed) => completed,
            Err(error) => return not_run(&error),
        };
        if completed.failed {
            return Ok(bad_gateway());
        }
        let response = if has_prelude(completed.content_type.as_deref()) {
            with_prelude(&completed.payload)
        } else {
            function_url::response(completed.payload).map_err(SplitError::from)
        };
        Ok(response.unwrap_or_else(|malformed| {
            refused.because(&malformed);
            bad_gateway()
        }))
    }
}

/// Whether a browser sends a request for a page that may not use a URL with `AuthType: AWS_IAM`. Without
/// signatures every local program may use it, but a page only if the URL's owner allows its origin.
fn is_unwanted(url: &FunctionUrl, headers: &HeaderMap) -> bool {
    let allowed = url.cors.as_ref();
    is_of_foreign_page(headers) && !allowed.is_some_and(|cors| allows_origin(cors, headers))
}

/// Replaces every refusal of a signature by the same message, as Lambda does it.
fn forbidden(error: ApiError) -> ApiError {
    if error.is_forbidden() {
        ApiError::forbidden()
    } else {
        error
    }
}

/// The response if the invocation did not run. A failure of the function's own restore hooks is a bad
/// gateway, like any failure of its code; the client gets the reason of all others.
pub(crate) fn not_run(error: &NotRun) -> Result<Response<Body>, ApiError> {
    match error {
        NotRun::RestoreHook(_) | NotRun::RestoreTimeout(_) => Ok(bad_gateway()),
        _ => Err(ApiError::not_run(error)),
    }
}
