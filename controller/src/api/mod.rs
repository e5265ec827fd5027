//! The HTTP API: every route, and what goes in and out.
//!
//! # Lambda's API
//! As AWS documents it; every response has `x-amzn-RequestId`, every error `x-amzn-ErrorType` and a
//! JSON body. `{name}` is `f`, `f:qualifier`, `account:function:f` or an ARN (percent-encoded or not);
//! the qualifier, a version or an alias, may also be `?Qualifier=`.
//! Each path also works with a trailing slash. Bodies are read raw, whatever their `Content-Type`.
//! A body that does not fit the model is a `SerializationException` ([`wire`]); all else that is wrong with
//! the form of a request is told at once, in a `ValidationException` ([`violations`]), and before
//! anything is looked for.
//! An answer that is due before the body has come says `Connection: close`, unless little is left of it.
//!
//! | method, path | answer |
//! | --- | --- |
//! | `POST /2015-03-31/functions` | 201, configuration with `State: Pending`; the deploy runs on |
//! | `GET /2015-03-31/functions?Marker=&MaxItems=&FunctionVersion=` | 200, `{Functions, NextMarker}`, without their states |
//! | `GET /2015-03-31/functions/{name}` | 200, `{Configuration, Code, Tags}` |
//! | `DELETE /2015-03-31/functions/{name}` | 204; with a qualifier, that version alone, whether it is there or not |
//! | `GET /2015-03-31/functions/{name}/configuration` | 200, configuration |
//! | `PUT /2015-03-31/functions/{name}/configuration` | 200, configuration with `LastUpdateStatus: InProgress` |
//! | `PUT /2015-03-31/functions/{name}/code` | 200, the same; with `Publish` the new version |
//! | `POST /2015-03-31/functions/{name}/versions` | 201, the version with `State: Pending`; what has not changed is not published again |
//! | `GET /2015-03-31/functions/{name}/versions?Marker=&MaxItems=` | 200, `{Versions, NextMarker}`, `$LATEST` first, without their states |
//! | `POST /2015-03-31/functions/{name}/aliases` | 201, the alias |
//! | `GET /2015-03-31/functions/{name}/aliases?FunctionVersion=&Marker=&MaxItems=` | 200, `{Aliases, NextMarker}` |
//! | `GET`, `PUT`, `DELETE /2015-03-31/functions/{name}/aliases/{alias}` | 200, the alias; 204 |
//! | `PUT`, `DELETE /2017-10-31/functions/{name}/concurrency` | 200, `{ReservedConcurrentExecutions}`; 204 |
//! | `GET /2019-09-30/functions/{name}/concurrency` | 200, the same, or `{}` |
//! | `POST /2015-03-31/functions/{name}/policy` | 201, `{Statement}`; kept and given back, nothing is decided by it |
//! | `GET /2015-03-31/functions/{name}/policy` | 200, `{Policy, RevisionId}` |
//! | `DELETE /2015-03-31/functions/{name}/policy/{sid}?RevisionId=` | 204 |
//! | `GET`, `POST`, `DELETE /2017-03-31/tags/{arn}?tagKeys=` | 200, `{Tags}`; 204 |
//! | `POST /2018-10-31/layers/{layer}/versions` | 201, the version; `{layer}` is a name or an ARN |
//! | `GET /2018-10-31/layers/{layer}/versions` | 200, `{LayerVersions, NextMarker}`, newest first |
//! | `GET`, `DELETE /2018-10-31/layers/{layer}/versions/{version}` | 200, the version; 204 |
//! | `POST /2018-10-31/layers/{layer}/versions/{version}/policy?RevisionId=` | 201, `{Statement, RevisionId}`; kept and given back like a function's |
//! | `GET /2018-10-31/layers/{layer}/versions/{version}/policy` | 200, `{Policy, RevisionId}` |
//! | `DELETE /2018-10-31/layers/{layer}/versions/{version}/policy/{sid}?RevisionId=` | 204 |
//! | `GET /2018-10-31/layers` | 200, `{Layers, NextMarker}`; with `?find=LayerVersion&Arn=` that version |
//! | `PUT /2019-09-30/functions/{name}/provisioned-concurrency?Qualifier=` | 202, with `Status: IN_PROGRESS` |
//! | `GET`, `DELETE` the same | 200, with `Status` `READY`, `IN_PROGRESS` or `FAILED` and `StatusReason`; 204; with `?List=ALL` all of the function's |
//! | `GET /2020-06-30/functions/{name}/code-signing-config` | 200, `{}` |
//! | `GET /2021-07-20/functions/{name}/runtime-management-config` | 200, `{UpdateRuntimeOn, FunctionArn}` |
//! | `GET /2016-08-19/account-settings` | 200, `{AccountLimit, AccountUsage}` |
//! | `POST /2015-03-31/functions/{name}/invocations?Qualifier=` | 200 result, 202 for `Event`, 204 for `DryRun` |
//! | `POST /2021-11-15/functions/{name}/response-streaming-invocations?Qualifier=` | 200, `application/vnd.amazon.eventstream`: `PayloadChunk`s as the function writes them, then `InvokeComplete` with `ErrorCode`, `ErrorDetails` and `LogResult` |
//! | `POST /2014-11-13/functions/{name}/invoke-async` | 202, as for `Event` |
//! | `PUT`, `POST` (update), `GET` `/2019-09-25/functions/{name}/event-invoke-config?Qualifier=` | 200, configuration |
//! | `DELETE /2019-09-25/functions/{name}/event-invoke-config?Qualifier=` | 204 |
//! | `GET /2019-09-25/functions/{name}/event-invoke-config/list?Marker=&MaxItems=` | 200, `{FunctionEventInvokeConfigs, NextMarker}` |
//!
//! `State` becomes `Active`, or `Failed` with `StateReason` (for a failed init `<error type>:
//! <message>`) and `StateReasonCode`. An update leaves the old version serving until the new one is
//! ready; when `LastUpdateStatus` is `Successful`, every invocation accepted from then on runs the
//! new one. While `State` is `Pending`, an invocation is 409 `ResourceConflictException`.
//!
//! ## Invocation headers beyond Lambda's
//! Request, each tightening the function's own limit for this invocation alone; a value that is not
//! a whole number, zero or above the function's own is 400 `InvalidParameterValueException`:
//!
//! | header | unit | range |
//! | --- | --- | --- |
//! | `X-Hearth-Timeout-Ms` | wall-clock milliseconds | 1 to the function's timeout |
//! | `X-Hearth-Memory-MiB` | memory of the runtime and what it starts | 16 to the function's memory |
//! | `X-Hearth-Cpu-Ms` | vCPU milliseconds, guest kernel included | 1 to the function's timeout |
//!
//! Response, on results and on function errors, timeouts included:
//!
//! | header | what |
//! | --- | --- |
//! | `X-Hearth-Start` | `cold`: restored for this invocation; `warm`: an idle instance |
//! | `X-Hearth-Duration-Ms` | from handing over the event to the answer, three decimals |
//! | `X-Hearth-Cpu-Ms` | CPU time that the sandbox's process used for it, measured by the host (a guest can't forge it), three decimals |
//! | `X-Hearth-Max-Memory-MiB` | peak memory of the runtime, rounded up; for an instance that had to be killed, what the host saw it use |
//! | `X-Hearth-Phases` | JSON, microseconds: `{"queue_us","restore_us","run_us","total_us"}`; `queue` is from acceptance to an instance (or shell) in hand, `restore` until the guest runs again (0 when warm), `run` until its answer |
//!
//! # Function URLs
//! `POST`, `GET`, `PUT`, `DELETE /2021-10-31/functions/{name}/url?Qualifier=` and `GET …/urls`
//! configure them. A request is for a function's URL by its path, `/fn/{name}/…` or
//! `/fn/{name}:{alias}/…`, or by its host, `{apiId}.lambda-url.{anything}`. It becomes an event in
//! payload format 2.0; the answer is a response if it has a `statusCode`, and else the body. A
//! function error and an answer that describes no response are 502 `Internal Server Error`. A URL
//! with `AuthType` `NONE` is open to all, whatever the function's policy says; with `AWS_IAM` it
//! takes a signature wherever the API does, by a key that may invoke the function. With `InvokeMode`
//! `RESPONSE_STREAM` the body leaves as the function writes it: a result of the type
//! `application/vnd.awslambda.http-integration-response` begins with JSON (`statusCode`, `headers`,
//! `cookies`) and eight NUL bytes; of any other result all is the body. A function that fails later
//! ends the connection before its time.
//!
//! # Who may call
//! On loopback everybody, signed or not. Elsewhere (or with `--require-signatures`) every request but
//! `/healthz`, `/readyz` and those for functions' URLs is signed with AWS's Signature Version 4 by an access key, in its header
//! or its query (a presigned URL), for the service `lambda` and this controller's region. A key that
//! only invokes gets at the invocations of the functions that it names; all else takes one that
//! administers. Refusals are 403: `MissingAuthenticationTokenException`,
//! `IncompleteSignatureException`, `InvalidSignatureException`, `UnrecognizedClientException`,
//! `AccessDeniedException`.
//!
//! # Hearth's own API
//! Errors have the same shape as Lambda's.
//!
//! | method, path | answer |
//! | --- | --- |
//! | `GET /hearth/v1/functions/{name}/logs?since=&until=&request_id=&contains=&after=&before=&limit=` | 200, `application/x-ndjson`, see below |
//! | `GET /hearth/v1/functions/{name}/logs/follow?request_id=&contains=&after=` | 200, `text/event-stream`, see below |
//! | `DELETE /hearth/v1/functions/{name}/deploy` | 204; the deploy of `$LATEST` that is under way ends, and its state becomes `Failed` |
//! | `GET /hearth/v1/instances?function=` | 200, `{"instances": […]}`, see below |
//! | `GET /hearth/v1/status` | 200, see below |
//! | `POST /hearth/v1/bench/agent-ping?function=NAME&count=N` | 200, `{"function","count","micros":[…]}`; 409 when no instance of it is idle |
//! | `GET /hearth/v1/packages/{sha256}?Expires=&Signature=` | 200, the ZIP file; what `Location` is, for ten minutes and without a key |
//! | `GET /healthz` | 200 `ok` while the process serves |
//! | `GET /readyz` | 200 `ready`, or 503 with the reason while it starts or drains |
//! | `GET /metrics` | 200, Prometheus text format |
//!
//! **Logs**: one JSON object per line, oldest first:
//! `{"seq":7,"time":"2026-11-22T08:00:00.123456Z","version":"$LATEST","request_id":"…"|null,
//! "kind":"function"|"platform","message":"…"}`. `kind` `platform` is a `START`, `END`, `REPORT` or
//! `INIT_REPORT` line, or what stands for it in the JSON format. With a qualifier, only records of
//! that version. `since`, `until`: RFC 3339 time or a span back from now such as `90s`, `15m`, `2h`;
//! `request_id`: that invocation's; `contains`: text in the message, letter by letter. A page has
//! `limit` records, 1 to 10,000 (default 1,000), and 4 MiB at most; `x-hearth-more` says whether
//! there are more. Without `after` it is the newest page, and the one before it has `before` the
//! first `seq`; with `after` it is the oldest of the records whose `seq` is greater, and the next
//! has `after` the last `seq`.
//!
//! **Following** a log: each record is an event with its `seq` as `id`, from now on, or after `after`
//! or the header `Last-Event-ID`: whoever comes back with the last one he got misses nothing and gets
//! nothing twice. An event `gap` says that records may be missing because the log did not keep them
//! that long. A follower that takes nothing for a minute is let go; beyond 256 at once it is a 429.
//! The stream ends with the function or the controller.
//!
//! **Instances**: `{"id":12,"function":"f","version":"$LATEST","revision_id":"…","state":"starting"|
//! "busy"|"finishing"|"idle","age_seconds":12.5,"idle_seconds":1.2|null,"memory_mib":128,"pid":4711,
//! "pss_kib":20480|null,"invocations":3}`. `finishing`: has answered, its runtime has not asked for
//! the next event yet. `pid` is null before a process is claimed. With `function`, its instances alone:
//! asking for `pss_kib` makes the kernel look at every page of every process that is listed.
//!
//! **Status**: `{"version":"0.1.0","host_kind":"hardware"|"software","cpu_isolation":
//! "v2"|"v1"|"none","kernel":"<hash>"|null,"runtimes":["python3.11",…],"sandbox":"<hash>",
//! "data_dir":"…","uptime_seconds":1.5,"instances":3,"memory_mib":384,"memory_budget_mib":16384,
//! "shells":2,"warnings":["…"]}`.
//!
//! **Agent ping**: `count` is 1 to 10,000 (default 100). The instance is resumed, sent that many
//! ping frames one after another over its one vsock connection, each timed from write to the pong's
//! arrival, and paused again. Nothing else runs in between.

mod access;
mod action;
mod aliases;
mod body;
mod compatible;
mod concurrency;
mod configuration;
mod destinations;
mod download;
mod error;
mod event_invoke_config;
mod event_stream;
mod events;
mod extract;
mod fields;
mod fixed_settings;
mod front;
mod function_urls;
mod functions;
mod hearth;
mod invoke;
mod invoke_stream;
mod layer_names;
mod layer_policy;
mod layers;
mod logging_config;
mod logs;
mod names;
mod package;
mod page;
mod policy;
mod provisioned;
mod region;
mod request_id;
mod resolve;
mod tags;
mod trace;
mod traffic;
mod unread;
mod url_stream;
mod validate;
mod versions;
mod violations;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{delete, get, post, put};
use hearth_protocol::jail::Jail;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::auth::Gate;
use crate::deploy::{Builder, Deployer};
use crate::events::Events;
use crate::function::Place;
use crate::limits::Isolation;
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::registry::Catalog;
pub(crate) use download::Downloads;
use error::ApiError;
pub(crate) use front::Peer;
use names::{NameForm, Named};
pub(crate) use region::is_region;
use request_id::RequestId;

/// Uploads that are read and unpacked at the same time: each may take 100 MB of memory.
const UPLOADS: usize = 4;
/// Longest wait for a turn.
const UPLOAD_WAIT: Duration = Duration::from_secs(60);

/// What the routes work with.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) place: Place,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) pool: Pool,
    pub(crate) events: Events,
    pub(crate) deployer: Deployer,
    pub(crate) builder: Arc<Builder>,
    pub(crate) logs: LogStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) isolation: Isolation,
    pub(crate) jail: Jail,
    pub(crate) warnings: Vec<String>,
    pub(crate) started: Instant,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) downloads: Downloads,
    /// Cancelled when the controller is about to end: it is not ready any more.
    pub(crate) leaving: CancellationToken,
    /// Cancelled when it accepts no connections any more.
    pub(crate) draining: CancellationToken,
}

impl App {
    pub(crate) fn upload_turns() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(UPLOADS))
    }

    /// A turn to read and unpack a package: it goes along to where that is done, which is done to its
    /// end when the caller has gone.
    async fn upload_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(UPLOAD_WAIT, self.uploads.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::unavailable("Too many uploads at once")),
        }
    }
}

/// Every route, behind the gate.
pub(crate) fn router(app: Arc<App>, gate: &Gate) -> Router {
    let lambda = Router::new()
        .route("/", get(functions::list).post(functions::create))
        .route("/{name}", get(functions::get).delete(functions::delete))
        .route(
            "/{name}/configuration",
            get(functions::get_configuration).put(functions::update_configuration),
        )
        .route("/{name}/code", put(functions::update_code))
        .route("/{name}/aliases", get(aliases::list).post(aliases::create))
        .route(
            "/{name}/aliases/{alias}",
            get(aliases::get)
                .put(aliases::update)
                .delete(aliases::delete),
        )
        .route(
            "/{name}/versions",
            get(versions::list).post(versions::publish),
        )
        .route("/{name}/policy", get(policy::get).post(policy::add))
        .route("/{name}/policy/{sid}", delete(policy::remove))
        .route("/{name}/invocations", post(invoke::invoke));
    let layers = Router::new()
        .route("/", get(layers::list))
        .route(
            "/{name}/versions",
            get(layers::list_versions).post(layers::publish),
        )
        .route(
            "/{name}/versions/{version}",
            get(layers::get_version).delete(layers::delete_version),
        )
        .route(
            "/{name}/versions/{version}/policy",
            get(layer_policy::get).post(layer_policy::add),
        )
        .route(
            "/{name}/versions/{version}/policy/{sid}",
            delete(layer_policy::remove),
        );
    let own = Router::new()
        .route("/functions/{name}/logs", get(logs::read))
        .route("/functions/{name}/logs/follow", get(logs::follow))
        .route("/functions/{name}/deploy", delete(hearth::give_up))
        .route("/instances", get(hearth::instances))
        .route("/status", get(hearth::status))
        .route("/bench/agent-ping", post(hearth::agent_ping));
    let routes = Router::new()
        .nest("/2015-03-31/functions", lambda)
        .route(
            "/2014-11-13/functions/{name}/invoke-async",
            post(events::invoke_async),
        )
        .nest("/2019-09-25/functions", event_invoke_config::routes())
        .nest("/2018-10-31/layers", layers)
        .route(
            "/2017-10-31/functions/{name}/concurrency",
            put(concurrency::put).delete(concurrency::delete),
        )
        .route(
            "/2019-09-30/functions/{name}/concurrency",
            get(concurrency::get),
        )
        .route(
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            get(provisioned::get_or_list)
                .put(provisioned::put)
                .delete(provisioned::delete),
        )
        .route(
            "/2017-03-31/tags/{arn}",
            get(tags::list).post(tags::put).delete(tags::remove),
        )
        .route(
            "/2020-06-30/functions/{name}/code-signing-config",
            get(fixed_settings::code_signing),
        )
        .route(
            "/2021-07-20/functions/{name}/runtime-management-config",
            get(fixed_settings::runtime_management),
        )
        .route(
            "/2016-08-19/account-settings",
            get(concurrency::account_settings),
        )
        .route(
            "/2021-11-15/functions/{name}/response-streaming-invocations",
            post(invoke_stream::invoke),
        )
        .route(
            "/2021-10-31/functions/{name}/url",
            get(function_urls::get)
                .post(function_urls::create)
                .put(function_urls::update)
                .delete(function_urls::delete),
        )
        .route(
            "/2021-10-31/functions/{name}/urls",
            get(function_urls::list_all),
        )
        .nest("/hearth/v1", own)
        .route("/healthz", get(hearth::healthz))
        .route("/readyz", get(hearth::readyz))
        .route("/metrics", get(hearth::metrics));
    let behind_urls = app.clone();
    let metrics = app.metrics.clone();
    let routes = access::authorized(routes, &app, gate)
        .route_layer(axum::middleware::from_fn(traffic::note_route))
        .fallback(async |uri: axum::http::Uri| ApiError::unknown_path(uri.path()))
        .method_not_allowed_fallback(async || ApiError::method())
        .with_state(app);
    // Outside of the router, so that what no route takes has its request id as well, and is signed.
    let whole = Router::new().fallback_service(tower::util::MapRequest::new(
        routes,
        request_id::without_trailing_slash,
    ));
    let unchecked = access::Unchecked::new();
    let entrance = access::Entrance::of(gate, &unchecked);
    let front = front::Front {
        app: behind_urls,
        entrance: entrance.clone(),
        unchecked,
    };
    access::authenticated(whole, entrance)
        .layer(axum::middleware::from_fn_with_state(front, front::serve))
        .layer(axum::middleware::from_fn(request_id::assign))
        .layer(axum::middleware::from_fn_with_state(
            metrics,
            traffic::count,
        ))
        .layer(axum::middleware::from_fn(unread::settle))
}

/// What a monitor asks for, behind no gate: for an address of its own.
pub(crate) fn monitoring(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(hearth::healthz))
        .route("/readyz", get(hearth::readyz))
        .route("/metrics", get(hearth::metrics))
        .with_state(app)
        .layer(axum::middleware::from_fn(unread::settle))
}
