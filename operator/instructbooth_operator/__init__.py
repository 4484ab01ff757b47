"""The operator: watches, asks `instructbooth.reconcile.plan` what to do, does it. Decisions are never made here."""
