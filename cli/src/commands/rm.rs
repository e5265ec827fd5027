//! `hearth rm`: deletes functions with their code, snapshots and instances.

use serde_json::json;

use crate::args::Rm;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Runs the command. Ends at the first that can't be deleted; those before it are gone.
pub(crate) fn run(client: &Client, rm: &Rm, output: Output) -> Result<(), Failure> {
    for function in &rm.functions {
        client.delete(function)?;
        if output.json {
            output.value_line(&json!({ "deleted": function.as_str() }))?;
        } else {
            output.line(&format!("{function} deleted"))?;
        }
    }
    Ok(())
}
