//! Any bytes as the messages of fetch and ask streams. What is accepted has an encoding that decodes to the same, and sets of
//! chunk indexes keep their bounds, however many indexes they claim.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vitrail_proto::runs::{RUNS_MAX, Runs};
use vitrail_proto::wire::{Answer, FetchReply, FetchRequest, Question, StreamKind};

fuzz_target!(|bytes: &[u8]| {
    let Some((&stream, message)) = bytes.split_first() else {
        return;
    };
    if let Ok(kind) = StreamKind::from_number(stream) {
        assert_eq!(kind.number(), stream);
    }
    if let Ok(request) = FetchRequest::decode(message) {
        if let FetchRequest::Get { chunks, .. } = &request {
            check(chunks);
        }
        assert_eq!(FetchRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(question) = Question::decode(message) {
        assert_eq!(Question::decode(&question.encode()), Ok(question));
    }
    let message = Bytes::copy_from_slice(message);
    if let Ok(reply) = FetchReply::decode(&message) {
        if let FetchReply::Have(runs) | FetchReply::Done { missing: runs, .. } = &reply {
            check(runs);
        }
        assert_eq!(FetchReply::decode(&reply.encode().into()), Ok(reply));
    }
    if let Ok(answer) = Answer::decode(&message) {
        assert_eq!(Answer::decode(&answer.encode().into()), Ok(answer));
    }
});

/// None of this may take long for few ranges of many indexes.
fn check(runs: &Runs) {
    assert!(runs.ranges().len() <= RUNS_MAX);
    let few = runs.longest(3);
    assert!(few.ranges().len() <= 3 && few.count() <= runs.count());
    let rest = runs.without(&few);
    assert_eq!(rest.count() + few.count(), runs.count());
    assert!(rest.without(runs).is_empty());
}
