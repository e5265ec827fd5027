//! The command line: commands, options and their help. Values are parsed here, once, into types that
//! the commands can trust.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::function_name::{AliasName, FunctionName, FunctionRef};
use crate::variable::UncheckedVariable;

/// Where `hearth serve` listens and every other command looks.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:9070";

/// Where else the endpoint comes from.
const ENDPOINT: &str = "HEARTH_ENDPOINT";
const ENDPOINT_HELP: &str =
    "The controller to talk to [env: HEARTH_ENDPOINT] [default: http://127.0.0.1:9070]";

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 error in the function, its folder or the arguments; 3 error of Hearth or this
machine.";

/// Functions on your own microVMs.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(after_long_help = "\
Examples:
  hearth doctor                         is this machine ready?
  hearth serve                          start a controller here
  hearth deploy functions-examples/python-hello
  hearth invoke python-hello -d '{\"name\": \"Hearth\"}'
  hearth logs python-hello -f
  hearth dev functions-examples/python-hello

Exit codes: 0 success; 1 error in the function, its folder or the arguments; 3 error of Hearth or this
machine.")]
pub(crate) struct Cli {
    /// What commands that talk to a controller take may also stand before them.
    #[arg(long, hide = true)]
    endpoint_url: Option<String>,
    #[arg(long, hide = true)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The controller to talk to: of the command line, else of the environment.
    pub(crate) fn endpoint(&self) -> String {
        let own = self
            .command
            .remote()
            .and_then(|remote| remote.endpoint_url.clone());
        let variable = || std::env::var(ENDPOINT).ok();
        own.or_else(|| self.endpoint_url.clone())
            .or_else(variable)
            .filter(|url| !url.is_empty())
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
    }

    /// Whether to answer with JSON.
    pub(crate) fn json(&self) -> bool {
        self.json || self.command.json()
    }

    /// Options before a command that it does not take.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let refuse = |option: &str| {
            let message = format!("this command takes no {option}");
            Err(<Self as clap::CommandFactory>::command()
                .error(clap::error::ErrorKind::ArgumentConflict, message))
        };
        if self.endpoint_url.is_some() && self.command.remote().is_none() {
            return refuse("--endpoint-url");
        }
        if self.json && matches!(self.command, Command::Serve(_) | Command::Dev(_)) {
            return refuse("--json");
        }
        Ok(())
    }
}

/// A whole number in a range.
fn whole(text: &str, low: u32, high: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| (low..=high).contains(number))
        .ok_or_else(|| format!("expected a whole number from {low} to {high}"))
}

/// Options of the commands that talk to a controller.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Remote {
    // The variable is read by hand: clap would list the option as required once it is set, and take an
    // empty value for an endpoint.
    #[arg(long, value_name = "URL", help = ENDPOINT_HELP)]
    endpoint_url: Option<String>,
    /// Answer with JSON on standard output, for programs
    #[arg(long)]
    json: bool,
}

/// Option of a command that works on files.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Json {
    /// Answer with JSON on standard output, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a controller on this machine
    Serve(Box<Serve>),
    /// Package a folder and create or update its function
    Deploy(Deploy),
    /// Run a function and print its result
    Invoke(Invoke),
    /// Print a function's log
    Logs(Logs),
    /// List functions, or the microVMs that serve them
    #[command(alias = "list", alias = "status", alias = "list-functions")]
    Ls(Ls),
    /// Delete functions
    #[command(alias = "delete", alias = "remove", alias = "delete-function")]
    Rm(Rm),
    /// Serve a folder while you work on it; every request sees the newest code
    Dev(Dev),
    /// Make, list and revoke the access keys of a controller on this machine
    #[command(subcommand)]
    Keys(Keys),
    /// Copy everything that a controller on this machine can't make again, while it runs
    Backup(Backup),
    /// Put a backup into an empty data directory
    Restore(Backup),
    /// Check whether this machine can run Hearth, and say what to do if it can't
    Doctor(Doctor),
}

impl Command {
    fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Deploy(deploy) => Some(&deploy.remote),
            Self::Invoke(invoke) => Some(&invoke.remote),
            Self::Logs(logs) => Some(&logs.remote),
            Self::Ls(ls) => Some(&ls.remote),
            Self::Rm(rm) => Some(&rm.remote),
            Self::Doctor(doctor) => Some(&doctor.remote),
            Self::Serve(_) | Self::Dev(_) | Self::Keys(_) | Self::Backup(_) | Self::Restore(_) => {
                None
            }
        }
    }

    fn json(&self) -> bool {
        match self {
            Self::Backup(backup) | Self::Restore(backup) => backup.output.json,
            Self::Keys(Keys::Create(create)) => create.of.output.json,
            Self::Keys(Keys::List(of)) => of.output.json,
            Self::Keys(Keys::Revoke(revoke)) => revoke.of.output.json,
            other => other.remote().is_some_and(|remote| remote.json),
        }
    }
}

/// Options of `backup` and `restore`, which work on a data directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth backup /root/hearth-backup
  hearth restore /root/hearth-backup --data-dir /var/lib/hearth")]
pub(crate) struct Backup {
    /// Folder of the backup
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The controller's data directory [default: as `hearth serve`]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth serve
  hearth serve --listen 127.0.0.1:9999 --data-dir /tmp/hearth

The options are those of hearthd. The log goes to standard error: RUST_LOG=debug has a line for each
request, --log-format json one JSON object a line.")]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: hearth_controller::Settings,
    #[command(flatten)]
    pub(crate) log: hearth_controller::LogSettings,
}

/// Settings of a function. A setting that is left out comes from `hearth.toml`, then from the existing
/// function, then from the defaults.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Settings {
    /// Name of the function; default: the folder's name
    #[arg(long)]
    pub(crate) name: Option<FunctionName>,
    /// Such as python3.11, nodejs22.x or provided; default: detected from the files
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// What the runtime calls, such as app.handler; default: detected from the files
    #[arg(long)]
    pub(crate) handler: Option<String>,
    /// Memory in MiB, 128 to 10240
    #[arg(long, value_parser = |text: &str| whole(text, 128, 10_240), value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Seconds that an invocation may take, 1 to 900
    #[arg(long, value_parser = |text: &str| whole(text, 1, 900), value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// An environment variable; may be given many times
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(crate) environment: Vec<UncheckedVariable>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth deploy functions-examples/python-hello
  hearth deploy . --name mail --handler app.handler --memory 512 --timeout 30 --env STAGE=test
  hearth deploy . --alias live && hearth invoke mail:live

A hearth.toml in the folder sets the same options; flags override it:
  name = \"mail\"
  runtime = \"python3.11\"
  handler = \"app.handler\"
  memory = 512
  timeout = 30
  exclude = [\"docs\", \"*.log\"]
  [environment]
  STAGE = \"production\"

pip installs the dependencies of a requirements.txt into the package. Cargo builds a folder with a
Cargo.toml, and its program becomes the bootstrap. Before the deploy begins, python3 or node check the
code's syntax and hearth looks for the handler; no code is run. A deploy that is interrupted by Ctrl-C
goes on in the controller.")]
pub(crate) struct Deploy {
    /// The function's folder
    pub(crate) dir: PathBuf,
    /// Publish a version of it, and point this alias there once the version is ready
    #[arg(long, value_name = "ALIAS")]
    pub(crate) alias: Option<AliasName>,
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth invoke python-hello
  hearth invoke python-hello -d '{\"name\": \"Hearth\"}'
  hearth invoke python-hello -d @event.json > result.json
  jq -n '{n: 1}' | hearth invoke python-hello -d -

The result goes to standard output as it is; what the invocation took goes to standard error: the
duration is the function's own, from its event to its answer; what it took in the controller includes
waiting for an instance, restoring one, and handing event and answer over.
Exits with 1 if the function failed.")]
pub(crate) struct Invoke {
    /// Function, function:qualifier or the function's ARN
    pub(crate) function: FunctionRef,
    /// The event: JSON, @FILE, or - for standard input
    #[arg(short, long, default_value = "{}", value_name = "JSON|@FILE|-")]
    pub(crate) data: String,
    /// A shorter timeout for this invocation, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) timeout_ms: Option<u64>,
    /// A smaller memory limit for this invocation, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// A limit on CPU time for this invocation, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) cpu_ms: Option<u64>,
    /// Write errors only to standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth logs python-hello
  hearth logs python-hello -n 50
  hearth logs python-hello:3 --since 2h --contains Traceback
  hearth logs python-hello -f

Times are UTC.")]
pub(crate) struct Logs {
    /// Function, or function:qualifier for one version's alone
    pub(crate) function: FunctionRef,
    /// Wait for new records and show them
    #[arg(short, long, conflicts_with = "until")]
    pub(crate) follow: bool,
    /// Show the newest N records only
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) tail: Option<u32>,
    /// Show records since this time (2026-11-22T08:00:00Z) or span (90s, 15m, 2h, 1d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Show records until this time or span
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Show the records of this invocation only
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Show only records that contain this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) contains: Option<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth ls
  hearth ls --instances
  hearth ls --json | jq -r '.[].FunctionName'")]
pub(crate) struct Ls {
    /// List each microVM with its function, state, age, memory and process
    #[arg(long)]
    pub(crate) instances: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth rm python-hello
  hearth rm python-hello rust-echo")]
pub(crate) struct Rm {
    /// The functions
    #[arg(required = true)]
    pub(crate) functions: Vec<FunctionName>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth dev functions-examples/python-hello
  curl -d '{\"name\": \"Hearth\"}' http://127.0.0.1:9080/

The same address answers the Lambda API, for boto3 or the AWS CLI with --endpoint-url. A request that
comes while the folder is being deployed waits for it: an answer is never from older code.")]
pub(crate) struct Dev {
    /// The function's folder
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Address and port of the development server
    #[arg(long, default_value = "127.0.0.1:9080", value_name = "ADDRESS:PORT", value_parser = hearth_controller::address)]
    pub(crate) listen: SocketAddr,
    /// Where functions and snapshots are kept; default: a folder in the cache, so that the next start
    /// is quick
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: hearth_controller::LogSettings,
}

/// Access keys: a controller that listens beyond loopback checks that requests are signed by one.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Create a key and print its secret; it is not shown again
    Create(CreateKey),
    /// List the keys, without their secrets
    List(KeysOf),
    /// Revoke keys. They stop working immediately.
    Revoke(RevokeKeys),
}

/// Whose keys.
#[derive(Debug, Args)]
pub(crate) struct KeysOf {
    /// The controller's data directory; default: that of `hearth serve`
    #[arg(long, env = "HEARTH_DATA", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth keys create anna --admin
  hearth keys create shop --invoke 'image-*' --invoke mail
  hearth keys create ci --admin >ci.env && set -a && . ./ci.env && set +a

The secret is printed once and can't be printed again. Clients take it as AWS_SECRET_ACCESS_KEY.")]
#[command(group(clap::ArgGroup::new("permissions").required(true).multiple(true).args(["admin", "invoke"])))]
pub(crate) struct CreateKey {
    /// Name of the key
    pub(crate) name: String,
    /// Permit everything
    #[arg(long)]
    pub(crate) admin: bool,
    /// Permit invoking the functions of this name; * stands for any text, ? for one character; may
    /// be given many times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) invoke: Vec<String>,
    #[command(flatten)]
    pub(crate) of: KeysOf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth keys revoke shop
  hearth keys revoke HRTHEXAMPLEEXAMPLE22")]
pub(crate) struct RevokeKeys {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) of: KeysOf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth doctor
  hearth doctor --json | jq '.checks[] | select(.verdict != \"ok\")'

Exits with 3 if Hearth can't run here.")]
pub(crate) struct Doctor {
    /// The data directory to check; default: that of `hearth serve`
    #[arg(long, env = "HEARTH_DATA", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The artefact cache to check
    #[arg(long, env = "HEARTH_CACHE", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"hearth").chain(line))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_endpoint_and_json_may_stand_before_the_command_and_after_it() {
        for line in [
            [
                "ls",
                "--instances",
                "--json",
                "--endpoint-url",
                "http://h:1",
            ],
            [
                "--endpoint-url",
                "http://h:1",
                "--json",
                "ls",
                "--instances",
            ],
        ] {
            let cli = parse(&line).unwrap();
            cli.check().unwrap();
            assert!(cli.json());
            assert_eq!(cli.endpoint(), "http://h:1");
            let Command::Ls(ls) = cli.command else {
                panic!("not a listing");
            };
            assert!(ls.instances);
        }
        assert!(parse(&["keys", "list", "--json"]).unwrap().json());
    }

    /// They were taken by every command, and meant nothing to some.
    #[test]
    fn a_command_refuses_options_that_mean_nothing_to_it() {
        for line in [
            ["serve", "--json"],
            ["serve", "--endpoint-url=http://h:1"],
            ["--json", "serve"],
            ["--endpoint-url=http://h:1", "serve"],
        ] {
            let refused = parse(&line).and_then(|cli| cli.check());
            assert!(refused.is_err(), "{line:?}");
        }
        for line in [
            &["dev", "d", "--json"][..],
            &["dev", "d", "--endpoint-url", "http://h:1"],
            &["keys", "list", "--endpoint-url", "http://h:1"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn usage_names_no_option_that_may_be_left_out() {
        let refused = parse(&["deploy"]).unwrap_err().to_string();
        assert!(refused.contains("Usage: hearth deploy <DIR>"), "{refused}");
    }

    #[test]
    fn what_other_tools_call_a_command_is_understood() {
        assert!(matches!(
            parse(&["delete", "f"]).unwrap().command,
            Command::Rm(_)
        ));
        assert!(matches!(parse(&["list"]).unwrap().command, Command::Ls(_)));
    }

    #[test]
    fn deploy_takes_every_setting() {
        let cli = parse(&[
            "deploy",
            "d",
            "--name",
            "f",
            "--runtime",
            "provided",
            "--handler",
            "h",
            "--memory",
            "128",
            "--timeout",
            "900",
            "--env",
            "A=1",
            "--env",
            "B=x=y",
        ])
        .unwrap();
        let Command::Deploy(deploy) = cli.command else {
            panic!("not a deploy");
        };
        assert_eq!(deploy.settings.memory, Some(128));
        assert_eq!(deploy.settings.timeout, Some(900));
        assert_eq!(deploy.settings.environment.len(), 2);
    }

    #[test]
    fn a_key_is_made_for_something() {
        assert!(parse(&["keys", "create", "k"]).is_err());
        parse(&["keys", "create", "k", "--admin"]).unwrap();
        let cli = parse(&["keys", "create", "k", "--invoke", "a", "--invoke", "b*"]).unwrap();
        let Command::Keys(Keys::Create(create)) = cli.command else {
            panic!("not a key's creation");
        };
        assert_eq!(create.invoke, ["a", "b*"]);
    }

    #[test]
    fn sizes_and_times_out_of_range_are_refused() {
        for bad in [
            ["deploy", "d", "--memory", "127"],
            ["deploy", "d", "--memory", "10241"],
            ["deploy", "d", "--timeout", "0"],
            ["deploy", "d", "--timeout", "901"],
            ["deploy", "d", "--name", "a/b"],
            ["deploy", "d", "--alias", "7"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_expected_is_told() {
        let refused = parse(&["deploy", "d", "--memory", "lots"])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("expected a whole number from 128 to 10240"),
            "{refused}"
        );
        let refused = parse(&["dev", "d", "--listen", "9482"])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("expected ADDRESS:PORT, such as 127.0.0.1:9482"),
            "{refused}"
        );
        let cli = parse(&["dev", "d", "--listen", "localhost:9482"]).unwrap();
        let Command::Dev(dev) = cli.command else {
            panic!("not a development server");
        };
        assert_eq!(dev.listen.to_string(), "127.0.0.1:9482");
    }

    #[test]
    fn an_event_that_starts_with_a_brace_or_is_a_dash_is_taken() {
        for data in ["{}", "-", "@file", "[1]"] {
            let cli = parse(&["invoke", "f:live", "-d", data]).unwrap();
            let Command::Invoke(invoke) = cli.command else {
                panic!("not an invoke");
            };
            assert_eq!(invoke.data, data);
        }
    }
}
