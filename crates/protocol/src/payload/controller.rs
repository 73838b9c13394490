//! The field rules of what a controller sends
//!
//! A start is an argument list, an environment and a set of paths of a process that is to be: no text in it that becomes
//! one of these may contain a NUL, where the operating system would end it.

use prexorcloud_proto::{
    CompositionPlan, ConfigPatch, ExtensionArtifact, PreWarmEntry, ProgramArguments, ReadinessRule,
    RuntimeArtifact, TemplateRef,
};

use super::entries::{Each, Inside, Keys, Values};
use super::rule::{
    Checked, FieldRule, Fields, Instance, Judge, Line, Name, NoNul, Number, Otherwise, Started, Text, fields,
};
use crate::id::{GroupName, ModuleId, TemplateName};
use crate::limits;

const NATURAL: Number = Number::natural(Otherwise::Refused);

fields! { HandshakeAck as "handshake_ack" {} }

fields! { StartInstance as "start_instance" {
    instance_id: Instance;
    group: Name(GroupName::new);
    port: Number::within(0, 65_535);
    memory_mb: NATURAL;
    startup_timeout_seconds: NATURAL;
    shutdown_grace_seconds: NATURAL;
    max_lifetime_seconds: NATURAL;
    jvm_args: Each(NoNul);
    env: Keys(NoNul, Otherwise::Refused), Values(NoNul);
    jar_file: NoNul;
    plugin_token: NoNul;
    templates: Each(Inside::<TemplateRef>::new());
    protected_paths: Each(NoNul);
    download_url: NoNul;
    platform: NoNul;
    platform_version: NoNul;
    composition_plan: Inside::<CompositionPlan>::new();
    incarnation: Started;
    readiness: Inside::<ReadinessRule>::new();
    program_arguments: Inside::<ProgramArguments>::new();
    stop_command: Text::refused(limits::COMMAND), Line;
} }

fields! { ProgramArguments as "start_instance.program_arguments" {
    values: Each(NoNul);
} }

fields! { ReadinessRule as "start_instance.readiness" {
    signal: Number::within(0, 3);
    line: Text::refused(limits::READY_LINE), Line;
} }

fields! { TemplateRef as "start_instance.templates" {
    name: NoNul;
} }

fields! { CompositionPlan as "start_instance.composition_plan" {
    runtime: Inside::<RuntimeArtifact>::new();
    templates: Each(Inside::<TemplateRef>::new());
    extensions: Each(Inside::<ExtensionArtifact>::new());
    config_patches: Each(Inside::<ConfigPatch>::new());
} }

fields! { RuntimeArtifact as "start_instance.composition_plan.runtime" {
    jar_file: NoNul;
    download_url: NoNul;
    platform: NoNul;
    platform_version: NoNul;
} }

fields! { ExtensionArtifact as "start_instance.composition_plan.extensions" {
    file_name: NoNul;
    download_url: NoNul;
    install_path: NoNul;
} }

fields! { ConfigPatch as "start_instance.composition_plan.config_patches" {
    file: NoNul;
} }

fields! { StopInstance as "stop_instance" {
    instance_id: Instance;
} }

fields! { SendCommand as "send_command" {
    instance_id: Instance;
    command: COMMAND, Line;
} }

fields! { InstanceReady as "instance_ready" {
    instance_id: Instance;
} }

const COMMAND: Text = Text::refused(limits::COMMAND).required();

/// Checks the line of a command alone, before there is a message around it.
pub(crate) fn command(line: &str) -> Checked {
    let field = "send_command.command";
    COMMAND.judge(field, line)?;
    Line.judge(field, line)
}

fields! { Ping as "ping" {} }

fields! { TemplateData as "template_data" {
    template_name: Name(TemplateName::new);
    hash: Text::refused(limits::HASH);
} }

fields! { TemplateUpToDate as "template_up_to_date" {
    template_name: Name(TemplateName::new);
} }

fields! { ShutdownNode as "shutdown_node" {} }

fields! { PreWarmCache as "pre_warm_cache" {
    entries: Each(Inside::<PreWarmEntry>::new());
    templates: Each(Inside::<TemplateRef>::new());
} }

fields! { PreWarmEntry as "pre_warm_cache.entries" {
    platform: NoNul;
    platform_version: NoNul;
    jar_file: NoNul;
    download_url: NoNul;
} }

fields! { RequestCacheStatus as "request_cache_status" {} }

fields! { ModuleInstall as "module_install" {
    module_id: Name(ModuleId::new);
    sha256: Text::refused(limits::HASH);
} }

fields! { ModuleUninstall as "module_uninstall" {
    module_id: Name(ModuleId::new);
} }

fields! { ModuleEvent as "module_event" {} }

// What else is wrong with these is said in the answer, by request id: a Java controller waits for nothing else.
fields! { WalkInstanceFiles as "walk_instance_files" {
    request_id: Text::refused(limits::REQUEST_ID).required();
} }

fields! { ReadInstanceFile as "read_instance_file" {
    request_id: Text::refused(limits::REQUEST_ID).required();
} }

fields! { CrashReportAck as "crash_report_ack" {
    report_id: Text::refused(limits::REPORT_ID);
} }

fields! { ConsoleOutputAck as "console_output_ack" {
    instance_id: Instance;
} }

fields! { CertificateIssued as "certificate_issued" {
    error_message: Text::shortened(limits::ACK_MESSAGE);
    retry_after_seconds: Number::natural(Otherwise::Clamped);
} }

fields! { AuthorityUpdate as "authority_update" {
    renew_within_seconds: Number::natural(Otherwise::Clamped);
} }
