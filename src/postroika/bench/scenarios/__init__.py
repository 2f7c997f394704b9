"""The scenarios, one a file; `postroika.bench.scenario` says what they are and loads them."""
