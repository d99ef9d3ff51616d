//! HTTP requests and responses as text, for processes without a client and for tests of the bytes.

use serde_json::json;

/// A request after whose response the daemon closes the connection. `line` is method and target;
/// each of `fields` ends in a line end.
pub fn request(line: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A registration of this process, with the session's id as its name.
pub fn registration(token: &str, session: &str, pid: u32) -> String {
    let body = json!({
        "token": token, "session_id": session, "mesh": "test", "display_name": session, "pid": pid,
    });
    request("POST /v1/sessions/register", "", &body.to_string())
}

/// The status and the body of a complete response.
pub fn parse(response: &str) -> Result<(u16, &str), String> {
    let invalid = || format!("not a response: {response:?}");
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(invalid)?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_split() {
        let response = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(response), Ok((404, "{}")));
        assert!(parse("HTTP/1.1 404 Not Found\r\n").is_err());
    }
}
