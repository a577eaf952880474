"""The LangDAO keeper: ends, on chain, the lessons that everybody else forgot to end."""
