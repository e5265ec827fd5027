//! Authorization: a layer around all routes that checks the caller's permissions once the route of a
//! request is known. If authentication is off, there is no such layer.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::Response;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;

use super::action::Action;
use super::authenticate::Caller;
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::target::extract::Namespaced;
use crate::auth::{AuthError, Authentication};

/// Puts the layer around the routes.
pub(crate) fn authorized(
    routes: Router<Arc<App>>,
    app: &Arc<App>,
    authentication: &Authentication,
) -> Router<Arc<App>> {
    match authentication {
        Authentication::Off => routes,
        Authentication::Signatures(_) => {
            routes.route_layer(from_fn_with_state(app.clone(), authorize))
        }
    }
}

async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    match permitted(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => {
            tracing::debug!(error = ?refused, "the controller has not permitted a request");
            refused.into_response()
        }
    }
}

async fn permitted(app: &Arc<App>, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    let action = Action::of(&parts.method, route);
    if action == Action::Probe {
        return Ok(Request::from_parts(parts, body));
    }
    let names_function = route.contains("/functions/{");
    // Authentication runs before this layer. If that ever changes, refuse.
    let Some(Caller(key)) = parts.extensions.get().cloned() else {
        return Err(ApiError::access(&AuthError::Missing));
    };
    if key.permissions.admin {
        return Ok(Request::from_parts(parts, body));
    }
    let function = if names_function {
        Some(Namespaced::from_request_parts(&mut parts, app).await?.0)
    } else {
        None
    };
    let permitted = action == Action::Invoke
        && function
            .as_ref()
            .is_some_and(|named| key.permissions.may_invoke(named.name.as_str()));
    if permitted {
        return Ok(Request::from_parts(parts, body));
    }
    Err(ApiError::access(&AuthError::Denied {
        caller: format!(
            "arn:{}:iam::{}:user/{}",
            app.arn_scope.partition(),
            app.arn_scope.account,
            key.name
        ),
        action: action.name().into(),
        resource: function.map_or_else(|| "*".into(), |named| named.arn(&app.arn_scope)),
    }))
}
