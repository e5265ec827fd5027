//! What requests are signed with: the key that AWS's own tools would take from the environment.

use hearth_controller::auth::Credentials;

/// Said when a controller takes signed requests only and this one was not.
pub(super) const UNSIGNED: &str = "this controller takes signed requests; set AWS_ACCESS_KEY_ID and \
    AWS_SECRET_ACCESS_KEY to a key made by `hearth keys create`";

/// Said when the signature is for another region than the controller's.
pub(super) const OTHER_REGION: &str =
    "set AWS_REGION to the controller's region: us-east-1, unless it was started with --region";

/// The default region of a controller.
const REGION: &str = "us-east-1";

/// The key in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, if both are there, for the region in
/// `AWS_REGION` or `AWS_DEFAULT_REGION`.
pub(crate) fn from_environment() -> Option<Credentials> {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let id = text("AWS_ACCESS_KEY_ID")?;
    let secret = text("AWS_SECRET_ACCESS_KEY")?;
    let region = text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION"));
    Some(Credentials::new(
        id,
        secret,
        region.unwrap_or_else(|| REGION.to_owned()),
    ))
}
