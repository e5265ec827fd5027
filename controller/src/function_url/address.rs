//! The forms of a function URL: `/fn/<name>/…` on any host, or any path on the host
//! `<id>.lambda-url.…`.

/// The address of a function URL in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// `/fn/<name>` or `/fn/<name>:<alias>`, and the path after it.
    Path {
        /// Name and alias, percent-encoded as the client has sent them.
        named: &'a str,
        /// At least `/`.
        path: &'a str,
    },
    /// The id in a host name.
    Host {
        /// In lower case.
        id: String,
    },
}

/// The beginning of the path of function URLs.
const PREFIX: &str = "/fn/";

/// The address of a function URL, if the request is for one. A host name with an id has precedence: all
/// paths on it, also `/fn/…`, belong to that function.
pub(crate) fn of<'a>(host: Option<&str>, path: &'a str) -> Option<Address<'a>> {
    if let Some((id, rest)) = host.and_then(|host| host.split_once('.'))
        && has_label(rest, "lambda-url")
        && !id.is_empty()
        && id.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return Some(Address::Host {
            id: id.to_ascii_lowercase(),
        });
    }
    let rest = path.strip_prefix(PREFIX)?;
    let (named, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (!named.is_empty()).then_some(Address::Path { named, path })
}

fn has_label(host: &str, label: &str) -> bool {
    host.split(['.', ':'])
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_function_and_the_rest_is_the_functions_path() {
        for (path, named, rest) in [
            ("/fn/f", "f", "/"),
            ("/fn/f/", "f", "/"),
            ("/fn/f/a/b", "f", "/a/b"),
            ("/fn/f//", "f", "//"),
            ("/fn/f:live/x", "f:live", "/x"),
            ("/fn/f%3Alive", "f%3Alive", "/"),
            ("/fn/f/fn/g", "f", "/fn/g"),
        ] {
            assert_eq!(
                of(Some("h:9070"), path),
                Some(Address::Path { named, path: rest }),
                "{path}"
            );
        }
        for path in [
            "/fn",
            "/fn/",
            "/fn//a",
            "/",
            "/FN/f",
            "/2015-03-31/functions",
        ] {
            assert_eq!(of(None, path), None, "{path}");
        }
    }

    #[test]
    fn a_host_names_a_function_for_all_of_its_paths() {
        let id = |host| match of(Some(host), "/fn/other") {
            Some(Address::Host { id }) => Some(id),
            _ => None,
        };
        for host in [
            "abc123.lambda-url.us-east-1.on.aws",
            "abc123.lambda-url.localhost:9070",
            "ABC123.Lambda-URL.x",
            "abc123.lambda-url:80",
        ] {
            assert_eq!(id(host).as_deref(), Some("abc123"), "{host}");
        }
        for host in [
            "lambda-url.x",
            ".lambda-url.x",
            "a-b.lambda-url.x",
            "abc123.lambda-urls.x",
            "abc123.x.lambda-url",
            "localhost:9070",
        ] {
            assert_eq!(id(host), None, "{host}");
        }
    }
}
