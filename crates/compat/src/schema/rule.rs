//! The rules of the classifier, one per kind of change

/// How a change affects peers that were built from the other schema
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Peers on either side keep working; the protocol version stays
    Additive,
    /// A peer on the other side could notice; the protocol version must be raised
    Breaking,
}

impl Class {
    /// `additive` or `breaking`
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Additive => "additive",
            Self::Breaking => "breaking",
        }
    }
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident $id:literal $class:ident $advice:literal,)*) => {
        /// A kind of change, with a class that never depends on circumstances
        ///
        /// [`id`](Self::id) is stable: tools may match on it. New rules may be added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[doc = $doc])* $name,)*
        }

        impl Rule {
            /// Every rule
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name of the rule, in kebab-case
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The class of every change that falls under the rule
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// What to do about such a change
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }
        }
    };
}

rules! {
    /// A file appeared
    FileAdded "file-added" Additive "nothing to do",
    /// A file is gone; what happened to its types is told by other rules
    FileRemoved "file-removed" Additive "nothing to do: each type that was in it is judged on its own",
    /// A file imports other files than before
    ImportsChanged "imports-changed" Additive "nothing to do",
    /// A file changed its package, which is part of every name in it
    PackageChanged "package-changed" Breaking "restore the package",
    /// A file or a moved type changed between proto2 and proto3
    SyntaxChanged "syntax-changed" Breaking "restore the syntax: field presence, packing, UTF-8 checks and unknown enum values depend on it",
    /// A file uses a syntax that the classifier does not know (editions)
    UnsupportedSyntax "unsupported-syntax" Breaking "write the file in proto2 or proto3; nothing else can be judged",
    /// A descriptor that no compiler would produce; it cannot be judged
    InvalidSchema "invalid-schema" Breaking "compile the schema and fix what the compiler reports",
    /// A type, service or extension stands in another file, under the same full name
    TypeMoved "type-moved" Additive "nothing to do",
    /// An option changed that no peer can see (deprecated, java_package, optimize_for, ...)
    OptionChanged "option-changed" Additive "nothing to do; generated code may look different",

    /// A message appeared
    MessageAdded "message-added" Additive "nothing to do",
    /// A message is gone
    MessageRemoved "message-removed" Breaking "restore the message; mark it deprecated if nobody should use it",
    /// `message_set_wire_format` changed
    MessageSetChanged "message-set-changed" Breaking "restore the option: it selects another wire format",
    /// A number was reserved
    NumberReserved "number-reserved" Additive "nothing to do",
    /// A name was reserved
    NameReserved "name-reserved" Additive "nothing to do",
    /// A reserved number is free again
    ReservedNumberReleased "reserved-number-released" Breaking "reserve the number again: old peers may still send it",
    /// A reserved name is free again
    ReservedNameReleased "reserved-name-released" Breaking "reserve the name again: old peers may still use it",
    /// A new field or enum value took a reserved number
    ReservedNumberUsed "reserved-number-used" Breaking "take a number that was never used, and reserve this one again",
    /// A new field or enum value took a reserved name
    ReservedNameUsed "reserved-name-used" Breaking "take a name that was never used, and reserve this one again",
    /// A new field or enum value took the number of one that still exists under another number
    NumberReused "number-reused" Breaking "take a number that was never used",
    /// More numbers are open to extensions
    ExtensionRangeAdded "extension-range-added" Additive "nothing to do",
    /// Fewer numbers are open to extensions
    ExtensionRangeRemoved "extension-range-removed" Breaking "restore the extension range: extensions of others may use it",

    /// A field appeared
    FieldAdded "field-added" Additive "nothing to do: peers without it ignore it and send its default",
    /// A `required` field appeared
    RequiredFieldAdded "required-field-added" Breaking "make the field optional: old peers do not send it",
    /// A field is gone
    FieldRemoved "field-removed" Breaking "restore the field and mark it deprecated, or raise PROTOCOL_VERSION and reserve its number and name",
    /// A field kept its number and changed its name
    FieldRenamed "field-renamed" Breaking "restore the name, or add a field under a new number",
    /// A field kept its name and changed its number
    FieldRenumbered "field-renumbered" Breaking "restore the number",
    /// A field has another type, wire-compatible or not
    FieldTypeChanged "field-type-changed" Breaking "restore the type, or add a field under a new number",
    /// A field changed between required, singular and repeated
    FieldCardinalityChanged "field-cardinality-changed" Breaking "restore the label, or add a field under a new number",
    /// A field gained `optional`, so that absent and default can be told apart
    FieldGainedOptional "field-gained-optional" Additive "nothing to do",
    /// A field lost `optional`, so that absent and default can no longer be told apart
    FieldLostOptional "field-lost-optional" Breaking "restore `optional`",
    /// A field moved into a oneof
    FieldEnteredOneof "field-entered-oneof" Breaking "move the field back out, or add a variant under a new number",
    /// A field moved out of a oneof
    FieldLeftOneof "field-left-oneof" Breaking "move the field back in, or add a field under a new number",
    /// A field moved from one oneof to another
    FieldChangedOneof "field-changed-oneof" Breaking "move the field back, or add a variant under a new number",
    /// The JSON name of a field changed
    JsonNameChanged "json-name-changed" Breaking "restore the JSON name",
    /// The declared default of a field changed
    DefaultChanged "default-changed" Breaking "restore the default: peers that omit the field mean the old one",
    /// `packed` changed; parsers accept both forms
    PackingChanged "packing-changed" Additive "nothing to do",

    /// A oneof appeared
    OneofAdded "oneof-added" Additive "nothing to do",
    /// A oneof is gone
    OneofRemoved "oneof-removed" Breaking "restore the oneof",
    /// A oneof kept its variants and changed its name
    OneofRenamed "oneof-renamed" Breaking "restore the name",
    /// A variant appeared in a oneof that existed
    OneofVariantAdded "oneof-variant-added" Additive "nothing to do: receivers ignore variants that they do not know",
    /// A variant of a oneof is gone
    OneofVariantRemoved "oneof-variant-removed" Breaking "restore the variant and mark it deprecated, or raise PROTOCOL_VERSION and reserve its number and name",

    /// An enum appeared
    EnumAdded "enum-added" Additive "nothing to do",
    /// An enum is gone
    EnumRemoved "enum-removed" Breaking "restore the enum; mark it deprecated if nobody should use it",
    /// The first value of a proto2 enum, which is its default, changed
    EnumDefaultChanged "enum-default-changed" Breaking "keep the old value first: it is what an absent field means",
    /// An enum value appeared
    EnumValueAdded "enum-value-added" Additive "nothing to do: receivers keep numbers that they do not know",
    /// A second name for a number that exists
    EnumAliasAdded "enum-alias-added" Additive "nothing to do",
    /// An enum value, or one of several names for a number, is gone
    EnumValueRemoved "enum-value-removed" Breaking "restore the value and mark it deprecated, or raise PROTOCOL_VERSION and reserve its number and name",
    /// An enum value kept its number and changed its name
    EnumValueRenamed "enum-value-renamed" Breaking "restore the name; a new one can be added as an alias",
    /// An enum value kept its name and changed its number
    EnumValueRenumbered "enum-value-renumbered" Breaking "restore the number",

    /// A service appeared
    ServiceAdded "service-added" Additive "nothing to do",
    /// A service is gone
    ServiceRemoved "service-removed" Breaking "restore the service",
    /// An rpc appeared
    RpcAdded "rpc-added" Additive "nothing to do: servers without it answer UNIMPLEMENTED",
    /// An rpc is gone
    RpcRemoved "rpc-removed" Breaking "restore the rpc",
    /// An rpc takes another message
    RpcRequestChanged "rpc-request-changed" Breaking "restore the request type, or add an rpc",
    /// An rpc returns another message
    RpcResponseChanged "rpc-response-changed" Breaking "restore the response type, or add an rpc",
    /// An rpc gained or lost `stream` on either side
    RpcStreamingChanged "rpc-streaming-changed" Breaking "restore the streaming, or add an rpc",

    /// An rpc promises more about calling it again than nothing
    RpcIdempotencyGained "rpc-idempotency-gained" Additive "nothing to do",
    /// An rpc lost or changed its `idempotency_level`
    RpcIdempotencyChanged "rpc-idempotency-changed" Breaking "restore the level: callers repeat calls, or make them with GET, because of it",

    /// An extension appeared
    ExtensionAdded "extension-added" Additive "nothing to do",
    /// An extension is gone
    ExtensionRemoved "extension-removed" Breaking "restore the extension",
    /// An extension extends another message
    ExtensionTargetChanged "extension-target-changed" Breaking "restore the extended message",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kebab_case_and_unique() {
        let mut ids: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        for id in &ids {
            assert!(id.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{id}");
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Rule::ALL.len());
    }

    #[test]
    fn breaking_rules_say_what_to_do() {
        for rule in Rule::ALL {
            let nothing = rule.advice().starts_with("nothing to do");
            assert_eq!(nothing, rule.class() == Class::Additive, "{}", rule.id());
        }
    }
}
