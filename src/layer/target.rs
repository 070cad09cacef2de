//! What a request is after, as the text of a key.

use http::header::HOST;
use http::request::Parts;

/// Host, path and query exactly as they were asked, such as `example.org/items?page=2`: what the default key is made
/// of. `None` when the request names several hosts.
///
/// The order of the query is kept, since a service may have regard to it; [`sorted_target`] is for those that have none.
#[must_use]
pub fn target(request: &Parts) -> Option<String> {
    let mut text = host(request)?;
    text.push_str(request.uri.path());
    if let Some(query) = request.uri.query() {
        text.push('?');
        text.push_str(query);
    }
    Some(text)
}

/// As [`target`], with the parameters of the query sorted by name; those of one name keep their order.
#[must_use]
pub fn sorted_target(request: &Parts) -> Option<String> {
    let mut text = host(request)?;
    text.push_str(request.uri.path());
    let mut parameters: Vec<&str> = request.uri.query().unwrap_or_default().split('&').collect();
    parameters.retain(|parameter| !parameter.is_empty());
    parameters.sort_by_key(|parameter| parameter.split('=').next());
    for (at, parameter) in parameters.into_iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(parameter);
    }
    Some(text)
}

/// The host, in a form that cannot run into the path; empty when none is named.
fn host(request: &Parts) -> Option<String> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let (named, further) = (hosts.next(), hosts.next());
    let host = match (request.uri.authority(), named, further) {
        (_, _, Some(_)) => return None,
        (Some(authority), _, None) => authority.as_str().as_bytes(),
        (None, named, None) => named.map_or(&b""[..], |host| host.as_bytes()),
    };
    let mut text = String::with_capacity(64);
    escape(&host.to_ascii_lowercase(), &mut text);
    Some(text)
}

/// Appends `bytes` so that nothing in them is taken for something else: neither a space nor a slash, nor what is no
/// text.
pub(super) fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => text.push(char::from(*byte)),
            byte if PLAIN.contains(byte) => text.push(char::from(*byte)),
            byte => {
                text.push('%');
                text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                text.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

const PLAIN: &[u8] = b"-._~:;=*+[]()!";

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_target_is_host_path_and_query_as_asked() {
        for (uri, hosts, expected) in [
            ("/", &[][..], Some("/")),
            ("/a?b=2&a=1", &["Example.org:80"], Some("example.org:80/a?b=2&a=1")),
            ("/a?", &["h"], Some("h/a?")),
            ("http://from-uri/a", &["h"], Some("from-uri/a")),
            ("/c", &["a/b"], Some("a%2Fb/c")),
            ("/b/c", &["a"], Some("a/b/c")),
            ("/a", &["one", "two"], None),
        ] {
            assert_eq!(target(&parts(uri, hosts)).as_deref(), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_sorted_target_orders_parameters_by_name_and_keeps_those_of_one_name_in_order() {
        for (uri, expected) in
            [("/a?b=2&a=1", "/a?a=1&b=2"), ("/a?b=2&a=1&b=1", "/a?a=1&b=2&b=1"), ("/a?", "/a"), ("/a", "/a")]
        {
            assert_eq!(sorted_target(&parts(uri, &[])).as_deref(), Some(expected), "{uri}");
        }
    }
}
