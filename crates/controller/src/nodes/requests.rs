//! What a daemon asks for beyond the life of its session and its instances

use prexorcloud_proto::ErrorReport;
use prexorcloud_protocol::session::controller::DaemonRequest;

use super::{files::FilesAnswer, task::Node};

impl Node {
    pub(super) fn handle_request(&mut self, request: DaemonRequest) {
        match request {
            DaemonRequest::Template(request) => self.serve_template(request),
            DaemonRequest::EventSubscribe(subscribe) => self.subscribe(&subscribe),
            DaemonRequest::EventUnsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            DaemonRequest::FileTree(tree) => {
                let request_id = tree.request_id.clone();
                self.handle_files(&request_id, FilesAnswer::Tree(tree));
            }
            DaemonRequest::FileContent(content) => {
                let request_id = content.request_id.clone();
                self.handle_files(&request_id, FilesAnswer::Content(content));
            }
            DaemonRequest::Module(update) => self.handle_module_state(update),
            DaemonRequest::Modules(snapshot) => self.handle_module_snapshot(snapshot),
            DaemonRequest::Certificate(request) => self.handle_certificate_request(request),
            DaemonRequest::Authorities(trusted) => self.handle_trusted(trusted),
            DaemonRequest::Cache(status) => self.handle_cache_status(*status),
            // Answers to what nothing here asks for.
            other => {
                tracing::debug!(node = %self.id, request = name_of(&other), "nothing here serves what the daemon asks");
            }
        }
    }

    pub(super) fn answer_error(&mut self, request: &'static str, code: &str, message: &str, context: String) {
        let report = ErrorReport {
            error_code: code.to_owned(),
            error_message: message.to_owned(),
            context,
            retry_after_seconds: 0,
        };
        if let Some(session) = self.current_session() {
            session.with(|session, now| session.refuse(now, request, report));
        }
    }
}

/// For the log: what a request carries may be secret, or large
fn name_of(request: &DaemonRequest) -> &'static str {
    match request {
        DaemonRequest::Template(_) => "template",
        DaemonRequest::EventSubscribe(_) => "event subscription",
        DaemonRequest::EventUnsubscribe(_) => "end of an event subscription",
        _ => "other",
    }
}
