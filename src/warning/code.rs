//! Which mistakes there are: [`Code`].

/// Makes [`Code`] of a table of its variants and their texts.
macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*) => {
        /// Which mistake a [`Warning`](super::Warning) reports. The module's docs have a heading for each.
        ///
        /// ```
        /// use tower_quota::warning::{Code, warnings};
        ///
        /// // In a test of your service: no client hides behind the load balancer.
        /// assert!(warnings().iter().all(|warning| warning.code() != Code::ForwardedUnread));
        /// assert_eq!(Code::ForwardedUnread.as_str(), "forwarded_unread");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Code {
            /// All codes, in the order of their headings.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as text, such as `no_peer_address`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

// In the order of the headings in the module's docs.
codes! {
    /// The peer's address is not in the request's extensions.
    NoPeerAddress = "no_peer_address",
    /// Requests have a header with the client's address that is not read.
    ForwardedUnread = "forwarded_unread",
    /// Every address in the first 1,000 requests is that of a trusted proxy.
    EverybodyTrusted = "everybody_trusted",
    /// A trusted proxy hides the client's address.
    HiddenClient = "hidden_client",
    /// None of the first 1,000 requests of a policy has its first key.
    KeyNeverFound = "key_never_found",
    /// The quota of a request is invalid.
    InvalidPlan = "invalid_plan",
    /// The name of a request's plan is not in the policy's table.
    UnknownPlan = "unknown_plan",
    /// None of the first 1,000 requests of a policy has a plan.
    PlanNeverFound = "plan_never_found",
    /// The first 1,000 requests were all exempt.
    AllExempt = "all_exempt",
    /// None of the first 1,000 requests is in a category.
    NoCategory = "no_category",
    /// There are overrides, and none of 1,000 requests has a caller.
    CallerNeverFound = "caller_never_found",
    /// The store's overrides could not be read when the process started.
    OverridesUnknown = "overrides_unknown",
    /// The store has an override that cannot be read.
    UnreadableOverride = "unreadable_override",
    /// The override source has named a policy that the limiter does not have.
    UnknownOverridePolicy = "unknown_override_policy",
    /// The override source did not answer, and the caller's plan was used.
    SourceUnavailable = "source_unavailable",
    /// A request could not be held, as there is no runtime with time.
    NoTimer = "no_timer",
    /// The memory store has no room for more keys.
    StoreFull = "store_full",
    /// Requests waited too long before they were sent to Redis.
    RedisQueue = "redis_queue",
    /// Two limiters count together for policies of one name that differ.
    PolicyDiffers = "policy_differs",
    /// Two processes with one prefix in the same Redis have different secrets.
    SecretDiffers = "secret_differs",
    /// A connection was upgraded, and no task keeps its units in flight.
    UpgradeWithoutPermit = "upgrade_without_permit",
    /// A handler counts for a policy that does not settle at the end.
    UnknownMeter = "unknown_meter",
    /// No handler has metered anything in the first 1,000 requests of a policy that settles at the end.
    NeverMetered = "never_metered",
    /// No layer has read the field of the body by which a policy counts.
    BodyFieldNotRead = "body_field_not_read",
    /// No layer has looked up the caller by whom a policy counts.
    NotLookedUp = "not_looked_up",
    /// A closure has answered a refusal with a body that cannot be sent.
    RefusalBody = "refusal_body",
    /// A gRPC call was refused with a response that is not gRPC.
    GrpcRefusedAsHttp = "grpc_refused_as_http",
}
