"""What has to be measured before or while channels are chosen: latency budgets and widths."""
