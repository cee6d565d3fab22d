"""What tests share: oracles, kinds of models, drawn and damaged input, processes that are ended."""
