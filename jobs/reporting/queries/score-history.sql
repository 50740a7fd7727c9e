-- How did the score of each data set change from evaluation to evaluation?
SELECT created_at, data, coalesce(model_name, results) AS scored, left(model_sha256, 12) AS model,
       max(value) FILTER (metric = 'AP') AS AP, max(value) FILTER (metric = 'AP50') AS AP50,
       max(value) FILTER (metric = 'AR10') AS AR10, max(value) FILTER (metric = 'HOTA') AS HOTA,
       rules, evaluation_id
FROM evaluations WHERE oracle IS NULL AND category IS NULL AND video_id IS NULL AND recall IS NULL
GROUP BY ALL ORDER BY created_at
