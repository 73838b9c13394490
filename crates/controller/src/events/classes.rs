//! The classes of events: names of Java classes, which daemons subscribe to, and types, which operators see
//!
//! The table is that of the Java controller. What no entry of the log is about can be subscribed to all the same, as there,
//! and never comes.

use crate::access::Permission;

/// Where all classes are but [`CUSTOM`]
const PACKAGE: &str = "me.prexorjustin.prexorcloud.api.event.events.";

/// The class of events that modules make up
const CUSTOM: &str = "me.prexorjustin.prexorcloud.api.event.CustomCloudEvent";

/// What all classes implement; whoever subscribes to it gets nothing, as there
const INTERFACE: &str = "me.prexorjustin.prexorcloud.api.event.CloudEvent";

/// Classes that every Java program has, and that are no events
const NO_EVENTS: [&str; 6] = [
    "java.lang.Object",
    "java.lang.String",
    "java.lang.Integer",
    "java.lang.Long",
    "java.util.List",
    "java.util.Map",
];

/// A kind of event
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// The name of its class in [`PACKAGE`]
    name: &'static str,
    /// What operators call it
    pub(crate) kind: &'static str,
    /// What whoever sees it must be allowed to see
    pub(crate) permission: Permission,
}

impl Class {
    /// What daemons call it
    pub(crate) fn java_name(&self) -> String {
        format!("{PACKAGE}{}", self.name)
    }

    /// The one that operators call so
    pub(crate) fn of_kind(kind: &str) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.kind == kind)
    }
}

/// What a name in a subscription stands for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Events of this class
    Class(&'static Class),
    /// Something that never happens here
    Silent,
    /// Nothing: the name is blank
    Blank,
    /// Nothing that is known
    Unknown,
    /// No event
    NotAnEvent,
}

impl Named {
    /// What a daemon means
    pub(crate) fn of(name: &str) -> Self {
        if name.trim().is_empty() {
            return Self::Blank;
        }
        if let Some(short) = name.strip_prefix(PACKAGE)
            && let Some(class) = CLASSES.iter().find(|class| class.name == short)
        {
            return Self::Class(class);
        }
        match name {
            INTERFACE | CUSTOM => Self::Silent,
            _ if NO_EVENTS.contains(&name) => Self::NotAnEvent,
            _ => Self::Unknown,
        }
    }

    /// The code and the message that refuse it
    pub(crate) fn refusal(self, name: &str) -> Option<(&'static str, String)> {
        match self {
            Self::Class(_) | Self::Silent => None,
            Self::Blank => Some((
                "EVENT_TYPE_BLANK",
                "EventSubscribe contained a blank event type".to_owned(),
            )),
            Self::Unknown => Some((
                "EVENT_TYPE_UNKNOWN",
                format!("subscribed event type is not on the controller's classpath: {name}"),
            )),
            Self::NotAnEvent => Some((
                "EVENT_TYPE_NOT_CLOUD_EVENT",
                format!("subscribed event type does not implement CloudEvent: {name}"),
            )),
        }
    }
}

macro_rules! classes {
    ($($name:literal $kind:literal $permission:ident;)*) => {
        /// All of them
        pub(crate) static CLASSES: &[Class] = &[
            $(Class { name: $name, kind: $kind, permission: Permission::$permission },)*
        ];
    };
}

classes! {
    "NodeConnectedEvent" "NODE_CONNECTED" NodesView;
    "NodeDisconnectedEvent" "NODE_DISCONNECTED" NodesView;
    "NodeStatusUpdatedEvent" "NODE_STATUS" NodesView;
    "NodeHeartbeatStaleEvent" "NODE_HEARTBEAT_STALE" NodesView;
    "NodeHeartbeatResumedEvent" "NODE_HEARTBEAT_RESUMED" NodesView;
    "NodeDrainRequestedEvent" "NODE_DRAIN_REQUESTED" NodesView;
    "NodeDrainCompletedEvent" "NODE_DRAIN_COMPLETED" NodesView;
    "NodeCacheStatusUpdatedEvent" "NODE_CACHE_STATUS" NodesView;
    "InstanceStateChangedEvent" "INSTANCE_STATE_CHANGED" InstancesView;
    "InstanceCrashedEvent" "INSTANCE_CRASHED" CrashesView;
    "InstanceConsoleOutputEvent" "INSTANCE_CONSOLE_OUTPUT" InstancesView;
    "InstanceMetricsUpdatedEvent" "INSTANCE_METRICS" InstancesView;
    "InstanceWarmChangedEvent" "INSTANCE_WARM_CHANGED" InstancesView;
    "InstanceDrainingEvent" "INSTANCE_DRAINING" InstancesView;
    "GroupCreatedEvent" "GROUP_CREATED" GroupsView;
    "GroupUpdatedEvent" "GROUP_UPDATED" GroupsView;
    "GroupDeletedEvent" "GROUP_DELETED" GroupsView;
    "GroupAggregatesUpdatedEvent" "GROUP_AGGREGATES_UPDATED" GroupsView;
    "GroupCrashLoopEvent" "GROUP_CRASH_LOOP" GroupsView;
    "GroupMaintenanceChangedEvent" "GROUP_MAINTENANCE_CHANGED" GroupsView;
    "DeploymentCreatedEvent" "DEPLOYMENT_CREATED" GroupsView;
    "DeploymentCompletedEvent" "DEPLOYMENT_COMPLETED" GroupsView;
    "PlayerConnectedEvent" "PLAYER_CONNECTED" InstancesView;
    "PlayerDisconnectedEvent" "PLAYER_DISCONNECTED" InstancesView;
    "PlayerTransferEvent" "PLAYER_TRANSFER" InstancesView;
    "PlayerJourneyEvent" "PLAYER_JOURNEY" InstancesView;
    "TemplateUpdatedEvent" "TEMPLATE_UPDATED" TemplatesView;
    "MaintenanceUpdatedEvent" "MAINTENANCE_UPDATED" NodesView;
    "ModuleLoadedEvent" "MODULE_LOADED" NodesView;
    "ModuleUnloadedEvent" "MODULE_UNLOADED" NodesView;
    "ModuleFrontendReloadedEvent" "MODULE_FRONTEND_RELOADED" NodesView;
    "CapabilityRegisteredEvent" "CAPABILITY_REGISTERED" NodesView;
    "CapabilityUnregisteredEvent" "CAPABILITY_UNREGISTERED" NodesView;
    "CapabilityProviderChangedEvent" "CAPABILITY_PROVIDER_CHANGED" NodesView;
    "ClusterConfigChangedEvent" "CLUSTER_CONFIG_CHANGED" NodesView;
    "ChoreographyOverlayActivatedEvent" "CHOREOGRAPHY_OVERLAY_ACTIVATED" GroupsView;
    "ChoreographyOverlayDeactivatedEvent" "CHOREOGRAPHY_OVERLAY_DEACTIVATED" GroupsView;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_in_the_words_that_java_daemons_know() {
        let refusal = |name: &str| {
            Named::of(name)
                .refusal(name)
                .map(|(code, said)| format!("{code}: {said}"))
        };
        let says = |said: &str| Some(said.to_owned());
        let known = "me.prexorjustin.prexorcloud.api.event.events.NodeConnectedEvent";
        assert!(
            matches!(Named::of(known), Named::Class(class) if class.kind == "NODE_CONNECTED" && class.java_name() == known)
        );
        assert_eq!(refusal(known), None);
        assert_eq!(refusal("me.prexorjustin.prexorcloud.api.event.CloudEvent"), None);
        assert_eq!(
            refusal(" \t"),
            says("EVENT_TYPE_BLANK: EventSubscribe contained a blank event type")
        );
        // The package that the documents show is a wrong one.
        let wrong = "me.prexorjustin.prexorcloud.api.event.NodeConnectedEvent";
        assert_eq!(
            refusal(wrong),
            says(&format!(
                "EVENT_TYPE_UNKNOWN: subscribed event type is not on the controller's classpath: {wrong}"
            ))
        );
        assert_eq!(
            refusal("java.lang.String"),
            says(
                "EVENT_TYPE_NOT_CLOUD_EVENT: subscribed event type does not implement CloudEvent: java.lang.String"
            )
        );
    }

    #[test]
    fn no_kind_and_no_name_is_there_twice() {
        for (at, class) in CLASSES.iter().enumerate() {
            let others = || CLASSES.iter().skip(at + 1);
            assert!(
                others().all(|other| other.kind != class.kind && other.name != class.name),
                "{class:?}"
            );
        }
    }
}
