//! Checks the destinations of a function's events: ARNs of other functions.

use serde::Deserialize;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::violations::Violations;
use crate::api::target::names::{NameForm, Named};
use crate::events::Destination;
use crate::function::{is_account, is_region};

const ARN_PATTERN: &str = "Member must satisfy regular expression pattern: \
    ^$|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\\-])+:([a-z]{2}((-gov)|(-iso(b?)))?-[a-z]+-\\d{1})?:\
    (\\d{12})?:(.*)";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DestinationInput {
    on_success: Option<TargetInput>,
    on_failure: Option<TargetInput>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetInput {
    destination: Option<String>,
}

impl DestinationInput {
    fn success(&self) -> Option<&str> {
        address(self.on_success.as_ref())
    }

    fn failure(&self) -> Option<&str> {
        address(self.on_failure.as_ref())
    }

    pub(crate) fn check_form(&self, violations: &mut Violations) {
        for (arn, field) in [(self.success(), "onSuccess"), (self.failure(), "onFailure")] {
            let field = format!("destinationConfig.{field}.destination");
            check_target_form(violations, arn.unwrap_or_default(), &field);
        }
    }
}

impl App {
    /// The destinations of a function's events: for success and for failure.
    pub(crate) fn destinations(
        &self,
        input: &DestinationInput,
        of: &Named,
    ) -> Result<(Option<Destination>, Option<Destination>), ApiError> {
        let (success, failure) = (input.success(), input.failure());
        let mut given = success.iter().chain(&failure);
        if given.any(|arn| service(arn) != Some("lambda")) {
            let part = |name: &str, kind: &str, arn: Option<&str>| match arn {
                Some(arn) => format!("{name}={kind}(destination={arn})"),
                None => format!("{name}=null"),
            };
            return Err(ApiError::invalid(format!(
                "The provided destination config DestinationConfig({}, {}) is invalid.",
                part("onSuccess", "OnSuccess", success),
                part("onFailure", "OnFailure", failure)
            )));
        }
        let destination = |arn: Option<&str>| arn.map(|arn| self.destination(arn, of)).transpose();
        Ok((destination(success)?, destination(failure)?))
    }

    /// Checks that the function exists, and the version or alias that the qualifier names.
    pub(crate) fn check_exists(&self, named: &Named) -> Result<(), ApiError> {
        let function = self.function(named)?;
        self.target(&function, named).map(drop)
    }

    /// Parses a destination: another function that exists.
    fn destination(&self, arn: &str, of: &Named) -> Result<Destination, ApiError> {
        let invalid = |_| ApiError::invalid(format!("The destination ARN {arn} is invalid."));
        let named =
            Named::parse(arn, None, NameForm::Function, &self.arn_scope).map_err(invalid)?;
        self.check_exists(&named).map_err(invalid)?;
        if self.function(&named)?.record.config.tenant_isolation {
            return Err(ApiError::invalid(
                "Destinations are not supported for functions with tenant isolation mode: the \
                 record names no tenant",
            ));
        }
        if named.name == of.name {
            return Err(ApiError::invalid(
                "You can't specify the function as a destination for itself.",
            ));
        }
        Ok(Destination {
            arn: arn.into(),
            function: named.name,
            qualifier: named.qualifier,
        })
    }
}

/// The ARN in a target. An empty one counts as missing.
fn address(target: Option<&TargetInput>) -> Option<&str> {
    target?.destination.as_deref().filter(|arn| !arn.is_empty())
}

/// The service that an ARN names, if it has the form of one.
fn service(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let mut next = || parts.next();
    let (scheme, partition, service) = (next()?, next()?, next()?);
    let (region, account, _resource) = (next()?, next()?, next()?);
    let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (scheme == "arn"
        && partition.starts_with("aws")
        && word(partition)
        && !service.is_empty()
        && word(service)
        && (region.is_empty() || is_region(region))
        && (account.is_empty() || is_account(account)))
    .then_some(service)
}

/// Checks that a target is an ARN, or empty.
pub(crate) fn check_target_form(violations: &mut Violations, arn: &str, field: &str) {
    if !arn.is_empty() && service(arn).is_none() {
        violations.add(arn, field, ARN_PATTERN);
    }
}

/// Refuses dead-letter targets. On Lambda they are queues and topics, which Hearth does not have. The
/// caller has checked the form.
pub(crate) fn check_dead_letter_target(arn: &str) -> Result<(), ApiError> {
    match service(arn) {
        None => Ok(()),
        Some("sqs" | "sns") => Err(ApiError::invalid(format!(
            "Invalid dead letter queue ARN: {arn} can't be reached from this host, which has no \
             queues and topics. Use an OnFailure destination to another function instead."
        ))),
        Some(_) => Err(ApiError::invalid(
            "Invalid dead letter queue ARN: Only Amazon SQS queues and Amazon SNS topics are \
             supported.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_a_service_and_other_texts_name_none() {
        for (arn, expected) in [
            (
                "arn:aws:lambda:us-east-1:000000000000:function:f",
                Some("lambda"),
            ),
            ("arn:aws-cn:sqs:cn-north-1:000000000000:queue", Some("sqs")),
            ("arn:aws:s3:::bucket", Some("s3")),
            ("arn:aws:_-/!lambda:us-east-1:000000000000:function:f", None),
            ("arn:aws:lambda:here:000000000000:function:f", None),
            ("arn:aws:lambda:us-east-1:1:function:f", None),
            ("arn:gcp:lambda:us-east-1:000000000000:function:f", None),
            ("function:f", None),
            ("", None),
        ] {
            assert_eq!(service(arn), expected, "{arn:?}");
        }
    }

    #[test]
    fn every_dead_letter_target_is_refused_also_queues_and_topics() {
        assert!(check_dead_letter_target("").is_ok());
        for (arn, words) in [
            (
                "arn:aws:lambda:us-east-1:000000000000:function:f",
                "Only Amazon SQS queues and Amazon SNS topics are supported.",
            ),
            (
                "arn:aws:sqs:us-east-1:000000000000:q",
                "OnFailure destination",
            ),
        ] {
            let refused = format!("{:?}", check_dead_letter_target(arn).unwrap_err());
            assert!(refused.contains(words), "{refused}");
        }
    }
}
