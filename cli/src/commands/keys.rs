//! `hearth keys`: the access keys of a controller. Works on its data directory, not over its API: a
//! controller that checks signatures starts only with a key.

use hearth_controller::Settings;
use hearth_controller::auth::{AccessKey, KeyFile, Permissions};
use serde_json::{Value, json};

use crate::args::{CreateKey, Keys, KeysOf};
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

/// Runs the command.
pub(crate) fn run(keys: &Keys, output: Output) -> Result<(), Failure> {
    match keys {
        Keys::Create(create) => self::create(create, output),
        Keys::List(of) => list(of, output),
        Keys::Revoke(revoke) => {
            let file = file(&revoke.of)?;
            for key in &revoke.keys {
                let revoked = file.revoke(key)?;
                if output.json {
                    output.value_line(&json!({ "revoked": shown(&revoked) }))?;
                } else {
                    output.line(&format!("{} ({}) revoked", revoked.id, revoked.name))?;
                }
            }
            Ok(())
        }
    }
}

fn create(create: &CreateKey, output: Output) -> Result<(), Failure> {
    let permissions = Permissions {
        admin: create.admin,
        invoke: create.invoke.clone(),
    };
    let made = file(&create.of)?.create(&create.name, permissions)?;
    if output.json {
        let mut value = shown(&made.key);
        value["secret_access_key"] = made.secret().into();
        output.value(&value)?;
        return Ok(());
    }
    output.line(&format!("AWS_ACCESS_KEY_ID={}", made.key.id))?;
    output.line(&format!("AWS_SECRET_ACCESS_KEY={}", made.secret()))?;
    output.note("The secret is not shown again.");
    Ok(())
}

fn list(of: &KeysOf, output: Output) -> Result<(), Failure> {
    let file = file(of)?;
    let keys = file.list()?;
    if output.json {
        output.value(&keys.iter().map(shown).collect::<Vec<Value>>())?;
        return Ok(());
    }
    if keys.is_empty() {
        output.note("no access keys; `hearth keys create NAME --admin` makes one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = keys.into_iter().map(row).collect();
    let text = output.table(&["NAME", "ID", "PERMITS", "MADE (UTC)"], &rows);
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    output.line(&output.paint(Stream::Stdout, Tone::Strong, head))?;
    output.line(body)?;
    Ok(())
}

fn row(key: AccessKey) -> Vec<String> {
    let permits = if key.permissions.admin {
        "everything".to_owned()
    } else {
        format!("invoke {}", key.permissions.invoke.join(", "))
    };
    // `2026-11-22T08:00:00Z`: as other listings show a time.
    let made = key.created.get(..19).unwrap_or(&key.created);
    vec![key.name, key.id, permits, made.replace('T', " ")]
}

/// Everything but the secret.
fn shown(key: &AccessKey) -> Value {
    json!({
        "name": key.name,
        "access_key_id": key.id,
        "admin": key.permissions.admin,
        "invoke": key.permissions.invoke,
        "created": key.created,
    })
}

fn file(of: &KeysOf) -> Result<KeyFile, Failure> {
    if let Some(dir) = &of.data_dir {
        return Ok(KeyFile::of(dir));
    }
    let settings = |error: String| Failure::Settings(error);
    let dir = Settings::defaults()
        .map_err(|error| settings(error.to_string()))?
        .data_dir()
        .map_err(|error| settings(error.to_string()))?;
    Ok(KeyFile::of(&dir))
}
