-- Which categories does the newest evaluation (or the one of --evaluation) do well, which badly?
SELECT category, max(value) FILTER (metric = 'AP') AS AP, max(value) FILTER (metric = 'AP50') AS AP50,
       max(value) FILTER (metric = 'AR10') AS AR10, max(value) FILTER (metric = 'HOTA') AS HOTA,
       max(value) FILTER (metric = 'objects') AS objects
FROM evaluations
WHERE category IS NOT NULL AND recall IS NULL AND evaluation_id = getvariable('newest')
GROUP BY category ORDER BY AP DESC, category
