"""Two real parties at work: what they move and how long they take, counted, and the cost room's constants fitted to it."""
