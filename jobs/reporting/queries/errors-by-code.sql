-- What went wrong, how often, and what does it say?
SELECT code, stage, count(*) AS videos, bool_or(retryable) AS retryable, any_value(detail) AS example
FROM errors GROUP BY code, stage ORDER BY videos DESC, code
