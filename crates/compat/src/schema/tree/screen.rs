//! Looks at a source before the parser does
//!
//! The parser recurses, so what nests too deep must not reach it; and it calls an edition a mere syntax error.

/// How deep braces and brackets may nest. Real schemas stay below twenty.
const DEEPEST: usize = 100;

/// The line and the reason why a source must not reach the parser.
pub(super) fn objection_to(text: &str) -> Option<(u32, String)> {
    let mut line = 1_u32;
    let mut depth = 0_usize;
    let mut first_word = true;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => line = line.saturating_add(1),
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => {
                let mut before = ' ';
                rest.next();
                for c in rest.by_ref() {
                    line = line.saturating_add(u32::from(c == '\n'));
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            '"' | '\'' => {
                while let Some(inside) = rest.next_if(|c| *c != '\n') {
                    if inside == c {
                        break;
                    }
                    if inside == '\\' {
                        rest.next_if(|c| *c != '\n');
                    }
                }
            }
            '{' | '[' | '<' | '(' => {
                depth += 1;
                if depth > DEEPEST {
                    return Some((line, format!("is nested more than {DEEPEST} levels deep")));
                }
            }
            '}' | ']' | '>' | ')' => depth = depth.saturating_sub(1),
            c if first_word && c.is_ascii_alphabetic() => {
                first_word = false;
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                if word == "edition" {
                    let reason = "editions are not supported; write the file in proto2 or proto3";
                    return Some((line, reason.into()));
                }
            }
            _ => {}
        }
    }
    None
}
