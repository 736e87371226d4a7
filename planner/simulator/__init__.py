"""One device with all its models under traffic, request by request: the law's assumptions, played instead of solved."""
