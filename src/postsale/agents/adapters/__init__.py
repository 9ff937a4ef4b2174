"""Tools that reach real systems: HubSpot, Salesforce, Stripe, Slack, Segment, webhooks, SMTP. Each is a module of its own.

Import the module you need; those that speak HTTP need the extra `tools`. Each knows how its vendor tells "done", "never", "not now"
and "perhaps" apart, and raises accordingly. They look addresses and foreign ids up with a function of yours: the log has none.
"""
