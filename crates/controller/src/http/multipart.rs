//! Files of a form (`multipart/form-data`), out of a body that is in memory

use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};

use super::error::ApiError;

/// The most parts of a form
const MAX_PARTS: usize = 16;

/// Bytes of the headers of a part
const MAX_HEADERS: usize = 8 * 1024;

/// A part of a form
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: String,
    pub(super) content: Bytes,
}

/// The parts of a body, whose boundary the headers of the request name
///
/// # Errors
/// For what is no such form, or is cut off.
pub(super) fn parts(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Part>, ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let Some(boundary) = kind.and_then(boundary) else {
        return Ok(Vec::new());
    };
    let cut = || ApiError::bad_request("the form is cut off, or is none");
    let (open, next) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut at = find(body, open.as_bytes(), 0).ok_or_else(cut)? + open.len();
    let mut parts = Vec::new();
    loop {
        match body.get(at..at + 2) {
            Some(b"--") => return Ok(parts),
            Some(b"\r\n") => at += 2,
            _ => return Err(cut()),
        }
        let end = find(body, b"\r\n\r\n", at.saturating_sub(2)).ok_or_else(cut)?;
        let head = body
            .get(at..end.max(at))
            .filter(|head| head.len() <= MAX_HEADERS)
            .ok_or_else(cut)?;
        let begin = end + 4;
        let behind = find(body, next.as_bytes(), begin.saturating_sub(2)).ok_or_else(cut)?;
        let (name, file_name) = disposition(&String::from_utf8_lossy(head));
        if parts.len() == MAX_PARTS {
            return Err(ApiError::bad_request("the form has too many parts"));
        }
        parts.push(Part {
            name,
            file_name,
            content: body.slice(begin..behind.max(begin)),
        });
        at = behind + next.len();
    }
}

fn boundary(kind: &str) -> Option<&str> {
    let (kind, parameters) = kind.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"'))
    });
    found.filter(|boundary| (1..=70).contains(&boundary.len()))
}

/// What a part's `Content-Disposition` says of its name, and of the file's
fn disposition(head: &str) -> (String, String) {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("content-disposition")
            .then_some(value)
    });
    let said = |wanted: &str| {
        let parameters = line.into_iter().flat_map(|line| line.split(';'));
        let mut values = parameters.filter_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case(wanted)
                .then(|| value.trim().trim_matches('"').to_owned())
        });
        values.next().unwrap_or_default()
    };
    (said("name"), said("filename"))
}

fn find(bytes: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let (first, rest) = wanted.split_first()?;
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| byte == first)?;
        if bytes.get(at + 1..)?.starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use axum::http::HeaderValue;

    use super::*;

    fn read(kind: &'static str, body: &str) -> Result<Vec<(String, String, String)>, ApiError> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let parts = parts(&headers, &Bytes::from(body.to_owned()))?;
        let text = |part: Part| {
            (
                part.name,
                part.file_name,
                String::from_utf8(part.content.to_vec()).unwrap(),
            )
        };
        Ok(parts.into_iter().map(text).collect())
    }

    const FORM: &str = "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jar\"\r\n\
        Content-Type: application/java-archive\r\n\r\none\r\n--two\r\n--b\r\ncontent-disposition: form-data; name=x\r\n\r\n\r\n--b--\r\n";

    #[test]
    fn a_form_is_read_whatever_stands_in_its_files() {
        let expected = [("file", "a.jar", "one\r\n--two"), ("x", "", "")];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(read("multipart/form-data; boundary=b", FORM).unwrap(), expected);
        assert_eq!(
            read("Multipart/Form-Data; charset=x; boundary=\"b\"", FORM).unwrap(),
            expected
        );
        assert!(read("application/json", FORM).unwrap().is_empty());
    }

    #[test]
    fn a_form_that_is_cut_off_is_told() {
        for end in 0..FORM.len() - 4 {
            assert!(
                read("multipart/form-data; boundary=b", &FORM[..end]).is_err(),
                "{end}"
            );
        }
        let part = "--b\r\nContent-Disposition: form-data; name=x\r\n\r\ny\r\n";
        assert!(read("multipart/form-data; boundary=b", &(part.repeat(17) + "--b--")).is_err());
    }
}
