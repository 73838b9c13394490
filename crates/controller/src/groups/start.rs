//! Starting instances from a group

use std::{collections::BTreeMap, time::Duration};

use prexorcloud_proto::{ConfigFormat, ConfigPatch, ProgramArguments, RuntimeIsolation};
use prexorcloud_protocol::InstanceId;

use super::{
    Group, GroupError, Groups, MOTD, deployments::Blueprint, named, rollout::record::KeptValues,
    scaling::Mode, settings::Meaning, unreadable,
};
use crate::{
    catalog::CatalogRecord,
    fleet::{Fleet, Request, Seen},
    nodes::{GroupSays, OrderError, Ready, StartOrder},
    origin::{self, GivenValues, Origin},
    records::InstanceRecord,
    store::StoreError,
    templates::{Composition, Layer, variables::Definitions},
};

/// Most instances of one call
const MAX_COUNT: usize = 50;

/// What a start came to
#[derive(Debug)]
pub(crate) struct Started {
    /// In the order of their numbers
    pub(crate) instances: Vec<Seen>,
    /// Why there are not as many as were asked for
    pub(crate) refused: Option<OrderError>,
}

impl Groups {
    /// Starts so many instances of a group, with what is in force of it
    ///
    /// # Errors
    /// [`GroupError`] if none was started.
    pub(crate) async fn start(
        &self,
        fleet: &Fleet,
        name: &str,
        count: usize,
        variables: &BTreeMap<String, String>,
    ) -> Result<Started, GroupError> {
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(GroupError::Invalid(format!(
                "count must be from 1 to {MAX_COUNT}"
            )));
        }
        let _turn = self.turns.of(&named(name)?).lock_owned().await;
        let group = self.show(name).await?;
        if group.is_unreadable {
            return Err(unreadable(group.name));
        }
        let blueprint = self.blueprint_in_force(&group).await?;
        let meaning = self.meaning(&group)?;
        let live = fleet.live_of(group.name).await?;
        let max = meaning.max_instances;
        if live >= max {
            return Err(GroupError::Conflict(format!(
                "Group {name} already at max instances ({max})"
            )));
        }
        if live + count > max {
            return Err(GroupError::Conflict(format!(
                "Group {name} has {live} of at most {max} instances: {count} more are too many"
            )));
        }
        let wanted = live + count;
        if meaning.scaling_mode == Mode::Static && wanted > meaning.min_instances {
            return Err(GroupError::Conflict(format!(
                "{name} is STATIC and has {} servers, no more: prexorctl group scale {name} {wanted}",
                meaning.min_instances
            )));
        }
        let mut order = self.order(&blueprint, variables).await?;
        order.origin.given = GivenValues(variables.clone());
        let mut started = Started {
            instances: Vec::with_capacity(count),
            refused: None,
        };
        for _ in 0..count {
            let one = async {
                let request = Request {
                    node: None,
                    instance: self.next_name(fleet, &group, &meaning).await?,
                    order: order.clone(),
                };
                fleet.start(request).await
            };
            match one.await {
                Ok(seen) => started.instances.push(seen),
                Err(error) if started.instances.is_empty() => return Err(error.into()),
                Err(error) => {
                    started.refused = Some(error);
                    break;
                }
            }
        }
        Ok(started)
    }

    /// What a server of a group is started with
    ///
    /// # Errors
    /// [`GroupError`] with what keeps it from being started anywhere.
    pub(super) async fn order(
        &self,
        blueprint: &Blueprint,
        variables: &BTreeMap<String, String>,
    ) -> Result<StartOrder, GroupError> {
        let group = &blueprint.group;
        let (meaning, known) = self.resolved(&blueprint.meaning).await?;
        let composition = self
            .compose(group, &meaning, &blueprint.layers, variables)
            .await?;
        let mut order = order(group, &meaning, composition)?;
        order.deployment_revision = blueprint.content;
        if let Some(known) = known {
            order.group_says.is_proxy |= known.is_proxy();
            if let Some(format) = known.format() {
                order.group_says.config_format = format;
            }
        }
        Ok(order)
    }

    /// The same for a server that comes back, with the values that it was started with
    ///
    /// Those of variables that no template of the group defines any more are left out, which the reason then says; they stay
    /// with the server, for the definition may return.
    ///
    /// # Errors
    /// [`GroupError`] with what keeps it from being started anywhere. No value is quoted.
    pub(super) async fn order_again(
        &self,
        blueprint: &Blueprint,
        instance: InstanceId,
        given: GivenValues,
        mut reason: String,
    ) -> Result<StartOrder, GroupError> {
        let defined = self.templates.definitions(&blueprint.layers)?;
        let definitions = Definitions::of(&defined);
        let is_known = |key: &String| definitions.knows(key) || key == MOTD;
        let (used, left_out): (BTreeMap<_, _>, BTreeMap<_, _>) =
            given.0.clone().into_iter().partition(|(key, _)| is_known(key));
        definitions.check_kept(&used).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            GroupError::Invalid(format!(
                "{instance} cannot come back with the values that it was started with: {}; mend the variables of its templates, or give the values up: prexorctl instance delete {instance}",
                wrong.join("; ")
            ))
        })?;
        let mut order = self.order(blueprint, &used).await?;
        if !left_out.is_empty() {
            let keys: Vec<&str> = left_out.keys().map(String::as_str).collect();
            let keys = keys.join(", ");
            let name = blueprint.group.name;
            reason = format!(
                "{reason}; without its values of {keys}, which no template of {name} defines any more"
            );
        }
        order.origin = Origin { given, reason };
        Ok(order)
    }

    /// The values that a server was started with, if that is recorded and it is still wanted
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if they were sealed with another key.
    pub(super) fn given(&self, record: &InstanceRecord) -> Result<GivenValues, GroupError> {
        origin::given(&self.sealing, record).map_err(|_| sealed_otherwise(&record.instance_id))
    }

    /// The same of a server that is replaced
    ///
    /// # Errors
    /// [`GroupError::Conflict`] if they were sealed with another key.
    pub(super) fn kept(&self, instance: InstanceId, kept: &KeptValues) -> Result<GivenValues, GroupError> {
        let instance = instance.as_str();
        origin::opened(&self.sealing, instance, kept.incarnation, &kept.sealed)
            .map_err(|_| sealed_otherwise(instance))
    }

    /// A group that names no jar, with the one that the catalog has for its platform and version
    pub(super) async fn resolved(
        &self,
        meaning: &Meaning,
    ) -> Result<(Meaning, Option<CatalogRecord>), StoreError> {
        let mut meaning = meaning.clone();
        if !meaning.jar.is_empty() {
            return Ok((meaning, None));
        }
        let wanted = self.catalog.resolve(&meaning.platform, &meaning.platform_version);
        let known = wanted.await?;
        if let Some(known) = &known {
            meaning.jar.clone_from(&known.download_url);
            meaning.sha256.clone_from(&known.sha256);
            meaning.platform_version.clone_from(&known.version);
        }
        Ok((meaning, known))
    }

    /// The configured name that is free, where names are configured; else the instance is numbered
    async fn next_name(
        &self,
        fleet: &Fleet,
        group: &Group,
        meaning: &Meaning,
    ) -> Result<Option<InstanceId>, OrderError> {
        if !meaning.is_static || meaning.static_instance_names.is_empty() {
            return Ok(None);
        }
        for name in &meaning.static_instance_names {
            let Ok(instance) = name.parse() else { continue };
            if !fleet.is_live(instance).await? {
                return Ok(Some(instance));
            }
        }
        Err(OrderError::Conflict(format!(
            "all of staticInstanceNames of {} are running: add one",
            group.name
        )))
    }

    async fn compose(
        &self,
        group: &Group,
        meaning: &Meaning,
        layers: &[Layer],
        variables: &BTreeMap<String, String>,
    ) -> Result<Composition, GroupError> {
        if !variables.is_empty() {
            let defined = self.templates.definitions(layers)?;
            let definitions = Definitions::of(&defined);
            let is_unknown = |key: &&String| !definitions.knows(key) && key.as_str() != MOTD;
            if let Some(key) = variables.keys().find(is_unknown) {
                return Err(GroupError::Invalid(format!(
                    "Invalid instance variables: unknown variable '{key}' set at INSTANCE scope"
                )));
            }
        }
        let composed = self
            .templates
            .composed(layers, &meaning.variable_values, variables)?;
        let is_brought = meaning.is_static || !meaning.jar.is_empty();
        if !is_brought && !self.templates.bring(layers, &meaning.jar_file).await? {
            let (name, file) = (group.name, &meaning.jar_file);
            let templates = match layers.is_empty() {
                true => "it has no template that could bring one".to_owned(),
                false => {
                    let names: Vec<&str> = layers.iter().map(Layer::name).collect();
                    format!("none of its templates ({}) has {file}", names.join(", "))
                }
            };
            return Err(GroupError::Invalid(format!(
                "{name} names no jar, the catalog has none for it, and {templates}: prexorctl group update {name} --jar URL|PATH, or push a template with {file}"
            )));
        }
        Ok(composed)
    }
}

fn order(group: &Group, meaning: &Meaning, composition: Composition) -> Result<StartOrder, GroupError> {
    let Meaning {
        platform,
        platform_version,
        ..
    } = meaning;
    let duration = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let patches = meaning.config_patches.iter().flat_map(|(file, keys)| {
        keys.iter().map(|(key, value)| ConfigPatch {
            file: file.clone(),
            key: key.clone(),
            value: value.clone(),
            ..ConfigPatch::default()
        })
    });
    let isolation = RuntimeIsolation {
        cpu_reservation: meaning.cpu_reservation,
        disk_reservation_mb: meaning.disk_reservation_mb,
    };
    let instance = group.name.as_str().parse();
    Ok(StartOrder {
        // Replaced by a free one.
        instance: instance.map_err(|_| GroupError::Unknown(group.name.to_string()))?,
        group: group.name,
        jar: meaning.jar.clone(),
        sha256: meaning.sha256.to_lowercase(),
        memory_mb: meaning.memory_mb,
        jvm_args: meaning.jvm_args.clone(),
        program_arguments: meaning
            .arguments
            .clone()
            .map(|values| ProgramArguments { values }),
        stop_command: meaning.stop_command.clone(),
        env: meaning.env.clone(),
        port: None,
        is_hand_placed: false,
        startup_timeout: duration(meaning.startup_timeout_seconds),
        shutdown_grace: duration(meaning.shutdown_grace_seconds),
        max_lifetime: duration(meaning.max_lifetime_seconds),
        readiness: meaning
            .ready
            .clone()
            .map(Ready::rule)
            .transpose()
            .map_err(GroupError::Invalid)?,
        templates: composition.templates,
        variables: composition.variables,
        origin: Origin::default(),
        group_says: GroupSays {
            jar_file: meaning.jar_file.clone(),
            platform: platform.clone(),
            platform_version: platform_version.clone(),
            is_proxy: meaning.is_proxy(),
            config_format: format_of(platform),
            ports: Some(meaning.ports()),
            is_static: meaning.is_static,
            protected_paths: meaning.protected_paths.clone(),
            config_patches: patches.collect(),
            max_players: meaning.max_players,
            isolation: (isolation != RuntimeIsolation::default()).then_some(isolation),
            affinity: meaning.node_affinity.clone(),
            anti_affinity: meaning.node_anti_affinity.clone(),
        },
        deployment_revision: 0,
    })
}

fn sealed_otherwise(instance: &str) -> GroupError {
    GroupError::Conflict(format!(
        "the values that {instance} was started with were sealed with another key: restore ca/records.key, or give them up: prexorctl instance delete {instance}"
    ))
}

/// The family of configuration files of software with this name
pub(super) fn format_of(platform: &str) -> ConfigFormat {
    match platform.to_ascii_lowercase().as_str() {
        "paper" | "folia" | "purpur" | "pufferfish" => ConfigFormat::Paper,
        "spigot" | "bukkit" | "craftbukkit" => ConfigFormat::Spigot,
        "velocity" => ConfigFormat::Velocity,
        "bungeecord" | "waterfall" => ConfigFormat::Bungeecord,
        "geyser" => ConfigFormat::Geyser,
        _ => ConfigFormat::Unspecified,
    }
}
