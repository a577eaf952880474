"""Messages to the participants: one message model, one file per channel, texts in `locales`."""
