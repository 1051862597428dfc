//! The body of the layer's responses: [`ResponseBody`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::limiter::Permit;

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
        // It holds units until it has ended. If it fails or is dropped, they come back as well.
        Lasting { #[pin] body: B, permit: Option<Permit> },
        Rejection { bytes: Bytes },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    pub(crate) fn lasting(body: B, permit: Permit) -> Self {
        Self { kind: Kind::Lasting { body, permit: Some(permit) } }
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
            KindProjection::Lasting { mut body, permit } => {
                let frame = ready!(body.as_mut().poll_frame(context));
                // A server need not poll a body again that says that it has ended.
                if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
                    drop(permit.take());
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
