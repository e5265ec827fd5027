//! From method and path to what the runtime, or an extension, requests.

use crate::extensions::ErrorPhase;
use crate::telemetry::Api;

const PREFIX: &str = "/2018-06-01";
const EXTENSIONS: &str = "/2020-01-01/extension";
const LOGS: &str = "/2020-08-15/logs";
const TELEMETRY: &str = "/2022-07-01/telemetry";
/// Sets the wall clock. A runtime calls it when an event's time shows that the clock is wrong.
const CLOCK: &str = "/hearth/clock";
/// Takes what a runtime reports of its random generators.
const GENERATORS: &str = "/hearth/generators";
/// Maximum length of a request id in a path; Lambda's have 36 characters.
const MAX_REQUEST_ID: usize = 128;

/// A request of the Runtime API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET /ping`
    Ping,
    /// `GET /runtime/invocation/next`
    Next,
    /// `POST /runtime/invocation/{id}/response`
    Response(String),
    /// `POST /runtime/invocation/{id}/error`
    Error(String),
    /// `POST /runtime/init/error`
    InitError,
    /// `GET /hearth/clock`: Hearth's own
    Clock,
    /// `POST /hearth/generators`: Hearth's own
    Generators,
    /// `POST /extension/register`
    Register,
    /// `GET /extension/event/next`
    NextEvent,
    /// `POST /extension/init/error` or `…/exit/error`
    ExtensionError(ErrorPhase),
    /// `PUT /logs` or `PUT /telemetry`
    Subscribe(Api),
    /// `GET /runtime/restore/next`
    RestoreNext,
    /// `POST /runtime/restore/error`
    RestoreError,
    /// There is no such path.
    NotFound,
    /// The path exists for another method.
    MethodNotAllowed,
}

impl Route {
    /// Never fails: an unknown path is one of the routes.
    pub(crate) fn of(method: &str, target: &str) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if let Some(route) = Self::of_extension(path) {
            let (wanted, route) = route;
            return if method == wanted {
                route
            } else {
                Self::MethodNotAllowed
            };
        }
        if path == CLOCK {
            return if method == "GET" {
                Self::Clock
            } else {
                Self::MethodNotAllowed
            };
        }
        if path == GENERATORS {
            return if method == "POST" {
                Self::Generators
            } else {
                Self::MethodNotAllowed
            };
        }
        let Some(path) = path.strip_prefix(PREFIX) else {
            return Self::NotFound;
        };
        let (wanted, route) = match path {
            "/ping" => ("GET", Self::Ping),
            "/runtime/invocation/next" => ("GET", Self::Next),
            "/runtime/init/error" => ("POST", Self::InitError),
            "/runtime/restore/next" => ("GET", Self::RestoreNext),
            "/runtime/restore/error" => ("POST", Self::RestoreError),
            _ => {
                let Some((id, verb)) = path
                    .strip_prefix("/runtime/invocation/")
                    .and_then(|rest| rest.split_once('/'))
                else {
                    return Self::NotFound;
                };
                if id.is_empty() || id.len() > MAX_REQUEST_ID {
                    return Self::NotFound;
                }
                match verb {
                    "response" => ("POST", Self::Response(id.to_owned())),
                    "error" => ("POST", Self::Error(id.to_owned())),
                    _ => return Self::NotFound,
                }
            }
        };
        if method == wanted {
            route
        } else {
            Self::MethodNotAllowed
        }
    }

    /// The routes that extensions use, with their methods.
    fn of_extension(path: &str) -> Option<(&'static str, Self)> {
        Some(match path {
            LOGS => ("PUT", Self::Subscribe(Api::Logs)),
            TELEMETRY => ("PUT", Self::Subscribe(Api::Telemetry)),
            _ => match path.strip_prefix(EXTENSIONS)? {
                "/register" => ("POST", Self::Register),
                "/event/next" => ("GET", Self::NextEvent),
                "/init/error" => ("POST", Self::ExtensionError(ErrorPhase::Init)),
                "/exit/error" => ("POST", Self::ExtensionError(ErrorPhase::Exit)),
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found() {
        let id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";
        for (method, path, route) in [
            ("GET", "/ping", Route::Ping),
            ("GET", "/runtime/invocation/next", Route::Next),
            ("GET", "/runtime/invocation/next?x=1", Route::Next),
            ("POST", "/runtime/init/error", Route::InitError),
            ("GET", "/runtime/restore/next", Route::RestoreNext),
            ("POST", "/runtime/restore/error", Route::RestoreError),
            (
                "POST",
                &format!("/runtime/invocation/{id}/response"),
                Route::Response(id.into()),
            ),
            (
                "POST",
                &format!("/runtime/invocation/{id}/error"),
                Route::Error(id.into()),
            ),
        ] {
            assert_eq!(Route::of(method, &format!("/2018-06-01{path}")), route);
        }
    }

    #[test]
    fn extensions_have_routes_of_their_own() {
        for (method, path, route) in [
            ("POST", "/2020-01-01/extension/register", Route::Register),
            ("GET", "/2020-01-01/extension/event/next", Route::NextEvent),
            (
                "POST",
                "/2020-01-01/extension/init/error",
                Route::ExtensionError(ErrorPhase::Init),
            ),
            (
                "POST",
                "/2020-01-01/extension/exit/error",
                Route::ExtensionError(ErrorPhase::Exit),
            ),
            ("PUT", "/2020-08-15/logs", Route::Subscribe(Api::Logs)),
            (
                "PUT",
                "/2022-07-01/telemetry",
                Route::Subscribe(Api::Telemetry),
            ),
            ("GET", "/2022-07-01/telemetry", Route::MethodNotAllowed),
            ("GET", "/2020-01-01/extension", Route::NotFound),
            ("GET", "/2018-06-01/extension/event/next", Route::NotFound),
        ] {
            assert_eq!(Route::of(method, path), route, "{method} {path}");
        }
    }

    #[test]
    fn anything_else_is_not_found() {
        for path in [
            "",
            "/",
            "*",
            "/2018-06-01",
            "/2018-06-01/runtime/invocation",
            "/2018-06-01/runtime/invocation/",
            "/2018-06-01/runtime/invocation//response",
            "/2018-06-01/runtime/invocation/a/b/response",
            "/2018-06-01/runtime/invocation/a/response/",
            "/2018-06-02/ping",
            "http://127.0.0.1/2018-06-01/ping",
        ] {
            assert_eq!(Route::of("GET", path), Route::NotFound, "{path}");
        }
        let long = format!("/2018-06-01/runtime/invocation/{}/error", "x".repeat(129));
        assert_eq!(Route::of("POST", &long), Route::NotFound);
    }

    #[test]
    fn a_known_path_with_another_method_is_not_allowed() {
        for (method, path) in [
            ("POST", "/ping"),
            ("HEAD", "/runtime/invocation/next"),
            ("GET", "/runtime/init/error"),
            ("PUT", "/runtime/invocation/1/response"),
        ] {
            assert_eq!(
                Route::of(method, &format!("/2018-06-01{path}")),
                Route::MethodNotAllowed
            );
        }
    }
}
