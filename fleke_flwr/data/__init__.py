"""Records to edit, and how they are spread over clients."""
