"""The process that a user starts: it forks, watches and stops the agent and the workers."""
