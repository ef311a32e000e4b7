//! Text Requests in full feature phase (RFC 7143 sections 6.4, 11.10, 11.11, appendix C).
//!
//! ```text
//!   Text SendTargets=All  F=1 TTT=ffffffff   ->
//!                                            <-  part 1      C=1 F=0 TTT=t1
//!   Text (empty)          F=1 TTT=t1         ->
//!                                            <-  last part   C=0 F=1 TTT=ffffffff
//! ```

use bytes::Bytes;

use super::session::{ConnectionId, Session};
use super::{Directory, SessionType};
use crate::negotiate::{Key, Negotiation, NegotiationError, Place};
use crate::pdu::{Bhs, Lun, RejectReason, TaskTag, TextRequest, TextResponse, TransferTag};
use crate::text::{self, Pair, TextBuilder, TextCollector, TextError};

/// Longest answer: the targets that a host may see. It follows the configuration, not the initiator's request.
const ANSWER_LIMIT: usize = 4 << 20;

/// Requests that one exchange may take while it collects or negotiates.
const REQUESTS_LIMIT: u32 = 64;

/// An exchange that goes on.
#[derive(Debug)]
pub(super) struct TextExchange {
    tag: TaskTag,
    transfer_tag: TransferTag,
    collected: TextCollector,
    negotiation: Option<Negotiation>,
    /// What is still to be sent.
    answer: Bytes,
    requests: u32,
}

impl Session {
    pub(super) fn text_request(
        &mut self,
        on: ConnectionId,
        pdu: &TextRequest,
        header: Bhs,
        directory: &dyn Directory,
    ) {
        let fresh = pdu.transfer_tag.is_reserved();
        let mut exchange = match self.connections[on].text.take() {
            Some(exchange) if !fresh => exchange,
            // A new request resets what there was (section 11.10.4).
            _ if fresh => TextExchange {
                tag: pdu.task_tag,
                transfer_tag: TransferTag::RESERVED,
                collected: TextCollector::default(),
                negotiation: None,
                answer: Bytes::new(),
                requests: 0,
            },
            _ => return self.reject(on, RejectReason::INVALID_PDU_FIELD, header),
        };
        if !fresh && (exchange.tag != pdu.task_tag || exchange.transfer_tag != pdu.transfer_tag) {
            return self.reject(on, RejectReason::INVALID_PDU_FIELD, header);
        }
        exchange.requests += 1;
        let sending = !exchange.answer.is_empty();
        if (pdu.continues && pdu.is_final)
            || (sending && !pdu.text.is_empty())
            || (!sending && exchange.requests > REQUESTS_LIMIT)
            || exchange.collected.push(&pdu.text).is_err()
        {
            return self.reject(on, RejectReason::PROTOCOL_ERROR, header);
        }
        if pdu.continues {
            return self.text_response(on, exchange, Bytes::new(), false, false);
        }
        if !sending {
            let collected = exchange.collected.take();
            match self.text_answer(on, &mut exchange, &collected, directory) {
                Ok(answer) => exchange.answer = answer.into(),
                Err(error) => {
                    tracing::debug!(%error, "text negotiation failed");
                    return self.reject(on, RejectReason::PROTOCOL_ERROR, header);
                }
            }
        }
        self.send_part(on, exchange, pdu.is_final);
    }

    /// Sends what fits into one PDU, cut between pairs.
    fn send_part(&mut self, on: ConnectionId, mut exchange: TextExchange, initiator_done: bool) {
        let most = self.connections[on].parameters.initiator_max_recv as usize;
        let part = if exchange.answer.len() <= most {
            std::mem::take(&mut exchange.answer)
        } else {
            // A pair that is longer than a PDU is cut inside: the C bit allows both.
            let pair_end = exchange.answer[..most].iter().rposition(|b| *b == 0).map_or(most, |at| at + 1);
            exchange.answer.split_to(pair_end)
        };
        let more = !exchange.answer.is_empty();
        self.text_response(on, exchange, part, more, initiator_done && !more);
    }

    fn text_response(
        &mut self,
        on: ConnectionId,
        mut exchange: TextExchange,
        part: Bytes,
        continues: bool,
        is_final: bool,
    ) {
        exchange.transfer_tag = if is_final { TransferTag::RESERVED } else { self.transfer_tag() };
        let connection = &mut self.connections[on];
        connection.put_status(TextResponse {
            is_final,
            continues,
            lun: Lun::ZERO,
            task_tag: exchange.tag,
            transfer_tag: exchange.transfer_tag,
            stat_sn: connection.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            text: part,
        });
        if !is_final {
            connection.text = Some(exchange);
        } else if let Some(negotiation) = exchange.negotiation {
            // Negotiated values take effect when the sequence ends (section 6.4).
            connection.parameters = *negotiation.parameters();
        }
    }

    fn text_answer(
        &self,
        on: ConnectionId,
        exchange: &mut TextExchange,
        collected: &[u8],
        directory: &dyn Directory,
    ) -> Result<Vec<u8>, NegotiationError> {
        let pairs = text::pairs(collected)?;
        let mut answer = TextBuilder::new(ANSWER_LIMIT);
        if let Some(request) = pairs.iter().find(|pair| pair.key == Key::SendTargets.name()) {
            if pairs.len() > 1 {
                return Err(NegotiationError::NotAllowed(Key::SendTargets));
            }
            self.send_targets(*request, directory, &mut answer)?;
            return Ok(answer.finish());
        }
        let negotiation = exchange.negotiation.get_or_insert_with(|| {
            let parameters = self.connections[on].parameters;
            Negotiation::full_feature(self.config.policy, self.subject.session_type, parameters)
        });
        negotiation.answer(&pairs, Place::FullFeature, &mut answer)?;
        Ok(answer.finish())
    }

    /// Target records: in a discovery session of all targets or a named one, in a normal session only of its own (appendix C).
    fn send_targets(
        &self,
        request: Pair<'_>,
        directory: &dyn Directory,
        answer: &mut TextBuilder,
    ) -> Result<(), TextError> {
        let subject = &self.subject;
        let normal = subject.session_type == SessionType::Normal;
        let named = match request.value {
            // A normal session is told of its own target only. Appendix C keeps "All" from it for that reason; initiators ask all
            // the same, and refusing them what the empty value gets would serve nobody.
            b"All" => None,
            // In an unnamed discovery session there is no target that this could mean.
            b"" if subject.target.is_none() => return Ok(()),
            b"" => subject.target.clone(),
            name => match crate::names::IscsiName::parse(name) {
                Ok(name) => Some(name),
                Err(_) => return answer.push(request.key, "Reject"),
            },
        };
        for record in directory.targets(&subject.initiator) {
            let wanted = named.as_ref().is_none_or(|name| *name == record.name);
            let own = !normal || subject.target.as_ref() == Some(&record.name);
            if !wanted || !own {
                continue;
            }
            answer.push(Key::TargetName.name(), record.name.as_str())?;
            for (address, group) in &record.portals {
                let address = text::address(*address);
                answer.push(Key::TargetAddress.name(), format!("{address},{group}"))?;
            }
        }
        Ok(())
    }
}
