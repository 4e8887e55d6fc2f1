"""Services: from a recipe to a job, its replicas, their health, and prompts routed to those that are well."""
