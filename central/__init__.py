"""The central side: record, drift, training, judgement, rollout."""
