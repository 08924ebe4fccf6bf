"""The command line: parse, call one library function, print. Nothing else imports this package."""
