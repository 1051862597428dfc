//! The body of the layer's responses: [`ResponseBody`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::limiter::{Meter, Permit};

pin_project! {
    /// The body of a response: the inner service's, or that of a refusal.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B> {
        Inner { #[pin] body: B },
        // Until it has ended. If it fails or is dropped, this is its end as well.
        // Boxed, so that the bodies of other responses are no larger.
        Lasting { #[pin] body: B, until_end: Option<Box<UntilEnd>> },
        Rejection { bytes: Bytes },
    }
}

/// What a response holds until its end: units in flight, and the meter that settles then.
#[derive(Debug)]
struct UntilEnd {
    _permit: Option<Permit>,
    meter: Option<Meter>,
}

impl Drop for UntilEnd {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.end();
        }
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    pub(crate) fn lasting(body: B, permit: Option<Permit>, meter: Option<Meter>) -> Self
    where
        B: Body,
    {
        let until_end = UntilEnd { _permit: permit, meter };
        // A server need not poll a body that says that it has ended.
        let until_end = (!body.is_end_stream()).then(|| Box::new(until_end));
        Self { kind: Kind::Lasting { body, until_end } }
    }

    pub(crate) fn rejection(bytes: Bytes) -> Self {
        Self { kind: Kind::Rejection { bytes } }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner { body } => body.poll_frame(context),
            KindProjection::Lasting { mut body, until_end } => {
                let frame = ready!(body.as_mut().poll_frame(context));
                // A server need not poll a body again that says that it has ended.
                if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
                    drop(until_end.take());
                }
                Poll::Ready(frame)
            }
            KindProjection::Rejection { bytes } => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } | Kind::Lasting { body, .. } => body.is_end_stream(),
            Kind::Rejection { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } | Kind::Lasting { body, .. } => body.size_hint(),
            Kind::Rejection { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
