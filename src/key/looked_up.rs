//! A key by what a layer has looked up before: [`looked_up`].

use std::{borrow::Cow, marker::PhantomData};

use http::{Extensions, StatusCode};

use super::{Extracted, Key, KeyExtractor, try_from_fn};
use crate::{
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// A key of the caller that a [`LookUpLayer`](crate::LookUpLayer) of the same type has looked up, as
/// [`extension`](super::extension) has one of an extension.
///
/// The key is missing only if the look-up has found no caller. If it has failed, or was not made, the key
/// is unreadable: the request is refused with 503 Service Unavailable, unless the policy counts it [as
/// missing](crate::Policy::unreadable_as_missing).
///
/// ```
/// use tower_quota::key;
///
/// #[derive(Clone)]
/// struct User { id: u64 }
///
/// let by_user = key::looked_up("user", |user: &User| user.id.into());
/// # let _ = by_user;
/// ```
pub fn looked_up<T, F>(kind: impl Into<Cow<'static, str>>, key: F) -> impl KeyExtractor
where
    T: Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> Key<'a> + Send + Sync + 'static,
{
    let (kind, not_made) = (kind.into(), FirstRequests::one());
    let culprit = kind.clone();
    try_from_fn(kind, move |request| match request.extensions.get::<LookedUp<T>>() {
        Some(LookedUp { state: State::Nobody, .. }) => Extracted::Missing,
        Some(LookedUp { state: State::Found, .. }) => match request.extensions.get::<T>() {
            Some(caller) => Extracted::Found(key(caller)),
            None => FAILED,
        },
        Some(LookedUp { state: State::Failed, .. }) => FAILED,
        None => {
            if not_made.count() {
                warn_not_made(&culprit);
            }
            FAILED
        }
    })
}

const FAILED: Extracted<'static> = Extracted::Unreadable(StatusCode::SERVICE_UNAVAILABLE);

#[cold]
fn warn_not_made(kind: &str) {
    warn(Code::NotLookedUp, kind, || {
        format!(
            "a policy counts by `{kind}`, which no layer has looked up, so that the request is refused; \
             write `.layer(LookUpLayer::new(…))` after the limiter's layer, and let its `only` match \
             each request of the policy"
        )
    });
}

/// How a look-up of the type `T` has ended, in a request's extensions beside what it has found.
pub(crate) struct LookedUp<T> {
    state: State,
    of: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy)]
enum State {
    Found,
    Nobody,
    Failed,
}

impl<T: Clone + Send + Sync + 'static> LookedUp<T> {
    /// Leaves what was looked up in the extensions, and nothing of an earlier look-up.
    pub(crate) fn leave(extensions: &mut Extensions, answer: Result<Option<T>, ()>) {
        extensions.remove::<T>();
        let state = match answer {
            Ok(Some(caller)) => {
                extensions.insert(caller);
                State::Found
            }
            Ok(None) => State::Nobody,
            Err(()) => State::Failed,
        };
        extensions.insert(Self { state, of: PhantomData });
    }
}

impl<T> Clone for LookedUp<T> {
    fn clone(&self) -> Self {
        Self { state: self.state, of: PhantomData }
    }
}
